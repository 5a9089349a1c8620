//! Figures of what touches the outside: files kept, webhooks on their way.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// The figures.
#[derive(Default)]
pub(crate) struct Outside {
    deliveries: Family<Outcome, Counter>,
    files: Gauge,
}

impl Outside {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self::default();
        let help = "Attempts to deliver a webhook: `delivered`, `failed` (to be repeated), `dead`, `skipped` (never sent), `told` or \
                    `lost` (not repeated)";
        registry.register("webhook_deliveries", help, new.deliveries.clone());
        registry.register_with_unit("files", "Files kept", Unit::Bytes, new.files.clone());
        new
    }

    /// An attempt to deliver ended.
    pub(crate) fn delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&Outcome { outcome }).inc();
    }

    /// Bytes of files were kept.
    pub(crate) fn kept(&self, bytes: u64) {
        self.files.inc_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Bytes of files were removed.
    pub(crate) fn removed(&self, bytes: u64) {
        self.files.dec_by(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

//! Figures for the operator, in the OpenMetrics text format. Names are in seconds and bytes; counters end in `_total`.

mod outside;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds of latency buckets, in seconds: a trivial call takes 50 us, a slow one a minute.
const LATENCY: [f64; 16] = [
    50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// Which version.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VersionLabels {
    model: String,
    version: String,
}

/// Which version, and how the call ended: `ok` or the code of the error.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    model: String,
    version: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StatusLabels {
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StepLabels {
    outcome: &'static str,
}

type Seconds = Counter<f64, AtomicU64>;

fn latency() -> Histogram {
    Histogram::new(LATENCY)
}

/// All figures.
pub(crate) struct Metrics {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    /// How calls have ended, but well.
    codes: Mutex<BTreeSet<&'static str>>,
    total: Family<VersionLabels, Histogram, fn() -> Histogram>,
    queue: Family<VersionLabels, Histogram, fn() -> Histogram>,
    device: Family<VersionLabels, Seconds>,
    responses: Family<StatusLabels, Counter>,
    /// The one of `responses` that is counted most.
    ok: Counter,
    publishes: Family<StepLabels, Counter>,
    gauges: Gauges,
    /// Files and webhooks.
    pub(crate) outside: outside::Outside,
}

#[derive(Default)]
struct Gauges {
    queued: Gauge,
    running: Gauge,
    weight_bytes: Gauge,
    memory: Gauge,
    memory_limit: Gauge,
    open: Gauge,
    models: Gauge,
    versions: Gauge,
    quarantined: Gauge,
    connections: Gauge,
}

/// What is true at the moment of asking.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// Calls waiting for a lane.
    pub(crate) queued: usize,
    /// Calls on a lane.
    pub(crate) running: usize,
    /// Bytes of weights in memory.
    pub(crate) weight_bytes: u64,
    /// Bytes of memory that calls share: what they hold, and what there is.
    pub(crate) memory: (u64, u64),
    /// Versions kept open.
    pub(crate) open: usize,
    /// Models in the catalog.
    pub(crate) models: usize,
    /// Versions in the catalog.
    pub(crate) versions: usize,
    /// Versions that are not called.
    pub(crate) quarantined: usize,
    /// Connections open.
    pub(crate) connections: usize,
}

/// The figures of one open version, found once.
pub(crate) struct VersionMetrics {
    labels: VersionLabels,
    ok: Counter,
    total: Histogram,
    queue: Histogram,
    device: Seconds,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("maquette");
        let calls = Family::default();
        registry.register("calls", "Calls of models by how they ended", calls.clone());
        let total = Family::new_with_constructor(latency as fn() -> Histogram);
        registry.register_with_unit(
            "call",
            "Time from the end of a request to the start of its reply",
            Unit::Seconds,
            total.clone(),
        );
        let queue = Family::new_with_constructor(latency as fn() -> Histogram);
        registry.register_with_unit(
            "queue",
            "Time that calls waited for a lane",
            Unit::Seconds,
            queue.clone(),
        );
        let device = Family::default();
        registry.register_with_unit("device", "Time inside tensor ops", Unit::Seconds, device.clone());
        let responses: Family<StatusLabels, Counter> = Family::default();
        let ok = responses.get_or_create_owned(&StatusLabels { status: 200 });
        registry.register("http_responses", "Responses by status", responses.clone());
        let publishes = Family::default();
        registry.register(
            "publishes",
            "Publishes: `ok`, or the step that failed",
            publishes.clone(),
        );
        let gauges = Gauges::default();
        registry.register("queued_calls", "Calls waiting for a lane", gauges.queued.clone());
        registry.register("running_calls", "Calls on a lane", gauges.running.clone());
        registry.register_with_unit(
            "resident_weights",
            "Weights in memory",
            Unit::Bytes,
            gauges.weight_bytes.clone(),
        );
        registry.register_with_unit(
            "shared_call_memory",
            "Memory that calls hold beyond the part that each is sure of",
            Unit::Bytes,
            gauges.memory.clone(),
        );
        registry.register_with_unit(
            "shared_call_memory_limit",
            "Memory that calls may hold together beyond the part that each is sure of",
            Unit::Bytes,
            gauges.memory_limit.clone(),
        );
        registry.register("open_guests", "Versions kept open", gauges.open.clone());
        registry.register("models", "Models published", gauges.models.clone());
        registry.register("versions", "Versions published", gauges.versions.clone());
        registry.register(
            "quarantined_versions",
            "Versions that are not called until they are released",
            gauges.quarantined.clone(),
        );
        registry.register("connections", "Connections open", gauges.connections.clone());
        let outside = outside::Outside::new(&mut registry);
        Self {
            registry,
            outside,
            calls,
            codes: Mutex::default(),
            total,
            queue,
            device,
            responses,
            ok,
            publishes,
            gauges,
        }
    }

    /// The figures of one version.
    pub(crate) fn version(&self, model: &str, version: &str) -> VersionMetrics {
        let labels = VersionLabels {
            model: model.to_owned(),
            version: version.to_owned(),
        };
        let ok = CallLabels {
            model: labels.model.clone(),
            version: labels.version.clone(),
            code: "ok",
        };
        VersionMetrics {
            ok: self.calls.get_or_create_owned(&ok),
            total: self.total.get_or_create_owned(&labels),
            queue: self.queue.get_or_create_owned(&labels),
            device: self.device.get_or_create_owned(&labels),
            labels,
        }
    }

    /// A call ended well. Times in microseconds.
    pub(crate) fn served(&self, version: &VersionMetrics, queue_us: u64, compute_us: u64, total_us: u64) {
        version.ok.inc();
        self.timed(version, queue_us, compute_us, total_us);
    }

    /// A call reached its lane and failed.
    pub(crate) fn failed(
        &self,
        version: &VersionMetrics,
        code: &'static str,
        queue_us: u64,
        compute_us: u64,
        total_us: u64,
    ) {
        self.refused(version, code);
        self.timed(version, queue_us, compute_us, total_us);
    }

    /// A call was refused before it reached a lane.
    pub(crate) fn refused(&self, version: &VersionMetrics, code: &'static str) {
        let VersionLabels { model, version } = version.labels.clone();
        self.codes.lock().unwrap_or_else(PoisonError::into_inner).insert(code);
        self.calls.get_or_create(&CallLabels { model, version, code }).inc();
    }

    /// Forgets the figures of a version that was removed, so that those who publish and remove leave nothing.
    pub(crate) fn forget(&self, model: &str, version: &str) {
        let (model, version) = (model.to_owned(), version.to_owned());
        let codes = self.codes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for code in codes.into_iter().chain(["ok"]) {
            let (model, version) = (model.clone(), version.clone());
            self.calls.remove(&CallLabels { model, version, code });
        }
        let labels = VersionLabels { model, version };
        self.total.remove(&labels);
        self.queue.remove(&labels);
        self.device.remove(&labels);
    }

    fn timed(&self, version: &VersionMetrics, queue_us: u64, compute_us: u64, total_us: u64) {
        let seconds = |us: u64| us as f64 / 1e6;
        version.queue.observe(seconds(queue_us));
        version.total.observe(seconds(total_us));
        if compute_us > 0 {
            version.device.inc_by(seconds(compute_us));
        }
    }

    /// A response was sent.
    pub(crate) fn responded(&self, status: u16) {
        if status == 200 {
            self.ok.inc();
        } else {
            self.responses.get_or_create(&StatusLabels { status }).inc();
        }
    }

    /// A publish ended: `ok`, or the step that failed.
    pub(crate) fn published(&self, outcome: &'static str) {
        self.publishes.get_or_create(&StepLabels { outcome }).inc();
    }

    /// Everything as text.
    pub(crate) fn text(&self, now: Now) -> Result<String, std::fmt::Error> {
        let set = |gauge: &Gauge, value: usize| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        let bytes = |gauge: &Gauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        set(&self.gauges.queued, now.queued);
        set(&self.gauges.running, now.running);
        bytes(&self.gauges.weight_bytes, now.weight_bytes);
        bytes(&self.gauges.memory, now.memory.0);
        bytes(&self.gauges.memory_limit, now.memory.1);
        set(&self.gauges.open, now.open);
        set(&self.gauges.models, now.models);
        set(&self.gauges.versions, now.versions);
        set(&self.gauges.quarantined, now.quarantined);
        set(&self.gauges.connections, now.connections);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn figures_carry_model_version_and_code() {
        let metrics = Metrics::new();
        let version = metrics.version("o/m", "ab");
        metrics.served(&version, 10, 2_000_000, 3_000_000);
        metrics.failed(&version, "timeout", 10, 0, 70_000_000);
        metrics.refused(&version, "busy");
        metrics.responded(200);
        metrics.published("ok");
        let text = metrics
            .text(Now {
                queued: 3,
                weight_bytes: 90,
                ..Now::default()
            })
            .unwrap();
        for line in [
            r#"maquette_calls_total{model="o/m",version="ab",code="ok"} 1"#,
            r#"maquette_calls_total{model="o/m",version="ab",code="timeout"} 1"#,
            r#"maquette_calls_total{model="o/m",version="ab",code="busy"} 1"#,
            r#"maquette_device_seconds_total{model="o/m",version="ab"} 2.0"#,
            r#"maquette_call_seconds_count{model="o/m",version="ab"} 2"#,
            r#"maquette_http_responses_total{status="200"} 1"#,
            r#"maquette_publishes_total{outcome="ok"} 1"#,
            "maquette_queued_calls 3",
            "maquette_resident_weights_bytes 90",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        metrics.forget("o/m", "ab");
        let text = metrics.text(Now::default()).unwrap();
        assert!(!text.contains("o/m"), "{text}");
    }
}

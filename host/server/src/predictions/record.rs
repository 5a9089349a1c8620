//! A prediction as the ledger keeps it.

use std::sync::Arc;

use super::status::Status;
use crate::names::VersionId;

/// Where a prediction was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// By a program.
    Api,
    /// On a page of this server.
    Web,
}

impl Source {
    /// The word that clients know.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Web => "web",
        }
    }
}

/// What the cache of identical inputs had to do with a prediction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cached {
    /// Nothing: the version does not say that it is deterministic, or the caller wants a fresh run.
    Off,
    /// It ran, and its output is kept.
    Miss,
    /// Its output was there already.
    Hit,
    /// An identical one was running; it has that one's output.
    Shared,
}

impl Cached {
    const ALL: [Self; 4] = [Self::Off, Self::Miss, Self::Hit, Self::Shared];

    /// The word in headers and objects.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Miss => "miss",
            Self::Hit => "hit",
            Self::Shared => "shared",
        }
    }

    /// The one of a number in the ledger.
    pub(crate) fn of_number(number: i64) -> Option<Self> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// Where events are told, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Webhook {
    /// An absolute http or https URL.
    pub(crate) url: String,
    /// See [`Events`].
    pub(crate) events: Events,
}

/// A set of a prediction's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Events(pub(crate) u8);

impl Events {
    pub(crate) const START: u8 = 1;
    pub(crate) const OUTPUT: u8 = 2;
    pub(crate) const LOGS: u8 = 4;
    pub(crate) const COMPLETED: u8 = 8;

    /// Every event by its name.
    pub(crate) const NAMES: [(&'static str, u8); 4] = [
        ("start", Self::START),
        ("output", Self::OUTPUT),
        ("logs", Self::LOGS),
        ("completed", Self::COMPLETED),
    ];

    /// What is told if the caller does not choose.
    pub(crate) fn default_set() -> Self {
        Self(Self::OUTPUT | Self::COMPLETED)
    }

    /// Whether an event is in the set.
    pub(crate) fn has(self, event: u8) -> bool {
        self.0 & event != 0
    }

    /// The names of its events.
    pub(crate) fn names(self) -> Vec<&'static str> {
        Self::NAMES
            .into_iter()
            .filter(|(_, bit)| self.has(*bit))
            .map(|(name, _)| name)
            .collect()
    }
}

/// What a prediction took. Microseconds, but for what is billed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Took {
    /// Waiting for a lane.
    pub(crate) queue_us: u64,
    /// On the lane.
    pub(crate) total_us: u64,
    /// Inside tensor ops: device time.
    pub(crate) compute_us: u64,
    /// Loading weights and compiling programs, on behalf of all later calls.
    pub(crate) load_us: u64,
    /// Device time in begun milliseconds.
    pub(crate) billed_ms: u64,
    /// Billionths of the currency's unit.
    pub(crate) cost: u64,
}

/// A prediction. Columns of the same names are described in the migration.
#[derive(Clone, Debug)]
pub(crate) struct Prediction {
    pub(crate) owner: Arc<str>,
    pub(crate) id: Arc<str>,
    pub(crate) token: String,
    pub(crate) model: Arc<str>,
    pub(crate) version: VersionId,
    pub(crate) deployment: Option<String>,
    pub(crate) status: Status,
    pub(crate) source: Source,
    pub(crate) origin: String,
    /// JSON.
    pub(crate) input: Arc<str>,
    pub(crate) secret: bool,
    /// JSON.
    pub(crate) output: Option<Arc<str>>,
    pub(crate) error: Option<String>,
    pub(crate) logs: String,
    /// JSON object of the figures that the guest set.
    pub(crate) metrics: String,
    pub(crate) created_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) completed_at: Option<i64>,
    pub(crate) deadline: Option<i64>,
    pub(crate) attempt: u32,
    pub(crate) webhook: Option<Webhook>,
    pub(crate) cache: Cached,
    pub(crate) took: Took,
    pub(crate) removed: bool,
}

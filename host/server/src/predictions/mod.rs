//! Predictions: calls that are recorded. The row in the ledger is the job: what was accepted is on disk, ends exactly once, and
//! is run again after a crash.
//!
//! [`engine`] takes a request in, `running` sees it through a lane, `placing` keeps its output's files, `ending` writes its end, `recover` begins again what a crash has
//! left; [`live`] is what a prediction is while somebody may watch it; `store::ledger` keeps it. [`request`], [`billing`], [`cache`],
//! [`status`] and [`view`] decide without I/O.

pub(crate) mod billing;
pub(crate) mod cache;
mod ending;
pub(crate) mod engine;
pub(crate) mod live;
mod placing;
pub(crate) mod record;
mod recover;
pub(crate) mod request;
mod retention;
mod running;
pub(crate) mod status;
mod telling;
pub(crate) mod view;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::task::TaskTracker;

use crate::app::App;

use cache::Cache;
use live::Live;
pub(crate) use recover::{adopt, load_spend, resume};
pub(crate) use retention::{close, flush, sweep};

/// How long a prediction that ended stays in memory for those who still ask for it.
const LINGER: Duration = Duration::from_secs(30);

/// What ended predictions may take in memory together, in bytes; the oldest go first.
const LINGER_BYTES: usize = 64 << 20;

/// Names a prediction: whose it is, and its id.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// The predictions in memory: those that wait or run, and those that ended a moment ago.
pub(crate) struct Predictions {
    state: Mutex<State>,
    /// Outputs of identical inputs.
    pub(crate) cache: Cache,
    /// What every owner has spent and may spend.
    pub(crate) spend: billing::Spend,
    /// Uses that are not in the ledger yet.
    pub(crate) meter: billing::Meter,
    /// The tasks that see predictions through.
    pub(crate) tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    live: HashMap<Key, Arc<Live>>,
    ended: VecDeque<(Instant, usize, Arc<Live>)>,
    ended_bytes: usize,
    /// Held by whoever creates under a key or an id of the caller's choice.
    locks: HashMap<Key, Arc<tokio::sync::Mutex<()>>>,
}

impl Predictions {
    /// None yet.
    pub(crate) fn new(cache: Cache, spend: billing::Spend) -> Self {
        Self {
            state: Mutex::default(),
            cache,
            spend,
            meter: billing::Meter::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// The state is whole whenever the lock is free.
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A prediction in memory.
    pub(crate) fn get(&self, owner: &Arc<str>, id: &str) -> Option<Arc<Live>> {
        self.lock().live.get(&(Arc::clone(owner), id.into())).cloned()
    }

    /// Takes one in.
    fn put(&self, live: &Arc<Live>) {
        self.lock().live.insert(live.key.clone(), Arc::clone(live));
    }

    /// Drops one that was never accepted.
    fn forget(&self, live: &Live) {
        self.lock().live.remove(&live.key);
    }

    /// Keeps one that ended for a while.
    fn retire(&self, live: &Arc<Live>) {
        let bytes = live.bytes();
        let mut state = self.lock();
        state.ended.push_back((Instant::now(), bytes, Arc::clone(live)));
        state.ended_bytes += bytes;
        while let Some((since, bytes, oldest)) = state.ended.front() {
            if since.elapsed() < LINGER && state.ended_bytes <= LINGER_BYTES {
                break;
            }
            let (bytes, key) = (*bytes, oldest.key.clone());
            state.ended_bytes -= bytes;
            state.ended.pop_front();
            state.live.remove(&key);
        }
    }

    /// Forgets one that has ended.
    pub(crate) fn drop_ended(&self, owner: &Arc<str>, id: &str) {
        let key: Key = (Arc::clone(owner), id.into());
        let mut state = self.lock();
        if let Some(at) = state.ended.iter().position(|(_, _, live)| live.key == key) {
            if let Some((_, bytes, _)) = state.ended.remove(at) {
                state.ended_bytes -= bytes;
            }
            state.live.remove(&key);
        }
    }

    /// Forgets what ended long ago.
    fn expire(&self) {
        let mut state = self.lock();
        while let Some((since, bytes, live)) = state.ended.front() {
            if since.elapsed() < LINGER {
                break;
            }
            let (bytes, key) = (*bytes, live.key.clone());
            state.ended_bytes -= bytes;
            state.ended.pop_front();
            state.live.remove(&key);
        }
    }
}

/// Only one request at a time creates under a name of the caller's choice.
pub(crate) async fn alone(app: &Arc<App>, owner: &Arc<str>, name: &str) -> Alone {
    let key: Key = (Arc::clone(owner), name.into());
    let lock = Arc::clone(app.predictions.lock().locks.entry(key.clone()).or_default());
    // Whoever goes away while it waits leaves nothing behind either.
    let mut alone = Alone {
        app: Arc::clone(app),
        key,
        guard: None,
    };
    alone.guard = Some(lock.lock_owned().await);
    alone
}

/// The right to create under a name; given back when dropped.
pub(crate) struct Alone {
    app: Arc<App>,
    key: Key,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl Drop for Alone {
    fn drop(&mut self) {
        let mut state = self.app.predictions.lock();
        self.guard = None;
        if state
            .locks
            .get(&self.key)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            state.locks.remove(&self.key);
        }
    }
}

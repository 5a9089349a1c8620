//! The versions that are open: compiled code mapped, schema compiled, ready to be called. A version is opened by its first call
//! and closed when it has been idle for long or too many are open.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::http::HeaderValue;
use maquette_package::blobs::BlobStore;
use maquette_package::version::VersionManifest;
use maquette_tensor::gate;

use crate::catalog::Version;
use crate::engine::{Call, Code, ErrorKind, Failure, Guest, Outcome, Prepared, Sandboxes, parts};
use crate::grant::Offer;
use crate::metrics::{Metrics, VersionMetrics};
use crate::names::VersionId;
use crate::prepare::Preparer;
use crate::problem::{Problem, quarantined};
use crate::quarantine::{End, Health, Quarantine};
use crate::redact::Redactor;
use crate::run::Listener;
use crate::schema::Schema;
use crate::store::{Store, now_ms};

/// How long a version that could not be opened is not tried again.
const PAUSE: Duration = Duration::from_secs(10);

/// What a call is predicted to take before the first one has been measured, in microseconds.
const FIRST_COST_US: u64 = 10_000;

/// A version ready to be called.
pub(crate) struct Ready {
    /// Calls it.
    pub(crate) guest: Guest,
    /// Checks inputs.
    pub(crate) input: Schema,
    /// Whether its output is a list that grows item by item.
    pub(crate) iterator: bool,
    /// Whether equal inputs have equal outputs, if its manifest says.
    pub(crate) deterministic: Option<bool>,
    /// Its id, as a header.
    pub(crate) header: HeaderValue,
    /// Its figures.
    pub(crate) metrics: VersionMetrics,
    cost_us: AtomicU64,
    /// `owner/name`, and the version's id.
    model: Arc<str>,
    id: VersionId,
    health: Arc<Health>,
}

impl Ready {
    /// Whether an output may be there already: the version says that equal inputs have equal outputs, or its inputs can.
    pub(crate) fn may_be_cached(&self) -> bool {
        let seeded = || self.input.value()["properties"].get("seed").is_some();
        self.deterministic.unwrap_or_else(seeded)
    }

    /// How long a call will likely take, in microseconds.
    pub(crate) fn cost_us(&self) -> u64 {
        self.cost_us.load(Ordering::Relaxed)
    }

    /// Serves a call of `caller` on this thread, strikes its secrets out of what the guest says, and learns from how it ends.
    ///
    /// # Errors
    /// The version was quarantined while the call waited: it is not entered any more.
    pub(crate) fn call(
        &self,
        store: &Store,
        caller: &Arc<str>,
        mut call: Call,
        redactor: Redactor,
    ) -> Result<Outcome, Arc<Quarantine>> {
        if let Some(why) = self.health.quarantine() {
            return Err(why);
        }
        if !redactor.is_empty() {
            let redactor = redactor.clone();
            call.events = call
                .events
                .map(|mut told| -> Listener { Box::new(move |event| told(redactor.event(event))) });
        }
        let waited = gate::waited();
        let mut outcome = self.guest.call(call);
        if !redactor.is_empty() {
            outcome = redactor.outcome(outcome);
        }
        // What it will take the next time does not depend on who goes before it now.
        let waited = u64::try_from((gate::waited() - waited).as_micros()).unwrap_or(u64::MAX);
        self.took(outcome.report.total_us.saturating_sub(waited));
        let end = match &outcome.result {
            Ok(_) => End::Well,
            Err(failure) if failure.broke => End::Fault(&failure.message),
            Err(failure) if failure.code == Code::InvalidInput => End::Well,
            Err(_) => End::Neither,
        };
        let owner = self.model.split('/').next().unwrap_or_default();
        if let Some(why) = self.health.saw(owner, caller, now_ms(), end) {
            tracing::warn!(
                model = %self.model, version = %self.id, faults = why.faults, reason = why.reason, "a version is quarantined"
            );
            if let Err(e) = store.quarantine(self.model.to_string(), self.id, &why) {
                tracing::error!(model = %self.model, version = %self.id, "a quarantine could not be written: {e}");
            }
            self.health.set(Some(why));
        }
        Ok(outcome)
    }

    /// What a call comes to that was not made because of a quarantine.
    pub(crate) fn set_aside(&self, why: &Quarantine) -> Outcome {
        Outcome {
            result: Err(Failure {
                code: Code::Internal,
                message: quarantined(&self.model, self.id, why),
                detail: None,
                broke: false,
                crowded: false,
            }),
            report: Default::default(),
        }
    }

    /// Learns from a call that took this long.
    fn took(&self, us: u64) {
        // A lost update between two lanes does no harm to a moving average.
        let old = self.cost_us();
        self.cost_us.store(
            if old == FIRST_COST_US {
                us
            } else {
                (old * 7).saturating_add(us) / 8
            },
            Ordering::Relaxed,
        );
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready")
            .field("version", &self.header)
            .finish_non_exhaustive()
    }
}

/// A version's place on the shelf; lives in the catalog's record of it.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    ready: RwLock<Option<Arc<Ready>>>,
    /// When it was last called, in milliseconds since the shelf was made.
    used: AtomicU64,
    /// Held while the version is being opened; remembers a failure for a while.
    opening: tokio::sync::Mutex<Option<(Instant, Problem)>>,
}

impl Slot {
    fn get(&self) -> Option<Arc<Ready>> {
        self.ready.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, ready: Option<Arc<Ready>>) {
        *self.ready.write().unwrap_or_else(PoisonError::into_inner) = ready;
    }
}

/// Opens and closes versions.
pub(crate) struct Shelf {
    store: Arc<Store>,
    blobs: Arc<BlobStore>,
    sandboxes: Sandboxes,
    preparer: Arc<Preparer>,
    metrics: Arc<Metrics>,
    offer: Offer,
    capacity: usize,
    idle: Duration,
    open: Mutex<Vec<Arc<Version>>>,
    started: Instant,
}

impl Shelf {
    /// An empty shelf for `capacity` versions, each closed after `idle` without a call.
    #[allow(clippy::too_many_arguments, reason = "each is a part of the server, named here once")]
    pub(crate) fn new(
        store: Arc<Store>,
        blobs: Arc<BlobStore>,
        sandboxes: Sandboxes,
        preparer: Arc<Preparer>,
        metrics: Arc<Metrics>,
        offer: Offer,
        capacity: usize,
        idle: Duration,
    ) -> Self {
        let (open, started) = (Mutex::default(), Instant::now());
        Self {
            store,
            blobs,
            sandboxes,
            preparer,
            metrics,
            offer,
            capacity: capacity.max(1),
            idle,
            open,
            started,
        }
    }

    /// The version, opened if it is not, to be called.
    pub(crate) async fn callable(&self, version: &Arc<Version>) -> Result<Arc<Ready>, Problem> {
        if let Some(why) = version.health.quarantine() {
            let problem = Problem::quarantined(&version.model, version.id, &why);
            let figures = self.metrics.version(&version.model, &version.id.to_string());
            self.metrics.refused(&figures, problem.code());
            return Err(problem);
        }
        self.ready(version).await
    }

    /// The version, opened if it is not.
    pub(crate) async fn ready(&self, version: &Arc<Version>) -> Result<Arc<Ready>, Problem> {
        version.slot.used.store(self.now(), Ordering::Relaxed);
        if let Some(ready) = version.slot.get() {
            return Ok(ready);
        }
        let mut failed = version.slot.opening.lock().await;
        if let Some(ready) = version.slot.get() {
            return Ok(ready);
        }
        if let Some((when, problem)) = &*failed
            && when.elapsed() < PAUSE
        {
            return Err(problem.clone());
        }
        match self.open(version.id).await {
            Ok((guest, input, deterministic)) => {
                *failed = None;
                self.put(version, guest, input, deterministic)
                    .ok_or_else(|| Problem::internal("a version id is not a header"))
            }
            Err(why) => {
                tracing::error!(model = %version.model, version = %version.id, %why, "a version cannot be opened");
                let problem = Problem::new(
                    axum::http::StatusCode::INTERNAL_SERVER_ERROR,
                    "Version unavailable",
                    "version-unavailable",
                    "this version cannot be opened on this server; its operator finds the cause in the log",
                );
                *failed = Some((Instant::now(), problem.clone()));
                Err(problem)
            }
        }
    }

    /// Places a version that is open already, such as one that was just published.
    pub(crate) fn put(
        &self,
        version: &Arc<Version>,
        guest: Guest,
        input: Schema,
        deterministic: Option<bool>,
    ) -> Option<Arc<Ready>> {
        let id = version.id.to_string();
        let output = &guest.description().output;
        let ready = Arc::new(Ready {
            iterator: output.get("x-cog-array-type").and_then(|v| v.as_str()) == Some("iterator"),
            deterministic,
            header: HeaderValue::try_from(&id).ok()?,
            metrics: self.metrics.version(&version.model, &id),
            cost_us: AtomicU64::new(FIRST_COST_US),
            model: Arc::clone(&version.model),
            id: version.id,
            health: Arc::clone(&version.health),
            guest,
            input,
        });
        version.slot.used.store(self.now(), Ordering::Relaxed);
        version.slot.set(Some(Arc::clone(&ready)));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.iter().any(|other| Arc::ptr_eq(other, version)) {
            open.push(Arc::clone(version));
        }
        while open.len() > self.capacity {
            let oldest = (0..open.len()).min_by_key(|i| open[*i].slot.used.load(Ordering::Relaxed));
            let Some(oldest) = oldest else { break };
            open.swap_remove(oldest).slot.set(None);
        }
        Some(ready)
    }

    /// Closes what has been idle for too long. Calls in progress keep what they use.
    pub(crate) fn sweep(&self) {
        let now = self.now();
        let idle = u64::try_from(self.idle.as_millis()).unwrap_or(u64::MAX);
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|version| {
                let keep = now.saturating_sub(version.slot.used.load(Ordering::Relaxed)) < idle;
                if !keep {
                    tracing::debug!(model = %version.model, version = %version.id, "closing an idle version");
                    version.slot.set(None);
                }
                keep
            });
    }

    /// Closes a version that was removed, and forgets its figures.
    pub(crate) fn forget(&self, version: &Arc<Version>) {
        version.slot.set(None);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| !Arc::ptr_eq(other, version));
        drop(open);
        self.metrics.forget(&version.model, &version.id.to_string());
    }

    /// How many versions are open.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn open(&self, id: VersionId) -> Result<(Guest, Schema, Option<bool>), String> {
        let stored = self.store.version(id).await.map_err(|e| e.to_string())?;
        let stored = stored.ok_or("its record is gone")?;
        let manifest = VersionManifest::from_json(&stored.manifest).map_err(|e| format!("its manifest: {e}"))?;
        let prepared: Prepared =
            serde_json::from_str(&stored.prepared).map_err(|e| format!("its record of preparation: {e}"))?;
        let parts = parts(&manifest, &self.blobs, &self.offer)?;
        let open = |prepared: Prepared| {
            let (sandboxes, parts) = (self.sandboxes.clone(), parts.clone());
            async move {
                let opened = tokio::task::spawn_blocking(move || {
                    let guest = sandboxes.open(&parts, &prepared)?;
                    let schema = Schema::new(prepared.description.input.clone())
                        .map_err(|why| maquette_sandbox::Error::component(format!("its input schema: {why}")))?;
                    Ok::<_, maquette_sandbox::Error>((guest, schema))
                });
                opened
                    .await
                    .unwrap_or_else(|e| Err(maquette_sandbox::Error::host(e.to_string())))
            }
        };
        match open(prepared).await {
            Ok((guest, schema)) => Ok((guest, schema, manifest.deterministic)),
            Err(e) if e.kind == ErrorKind::Artifact => {
                tracing::info!(version = %id, why = %e, "compiling a version again");
                let prepared = self.preparer.prepare(&parts).await.map_err(|e| e.to_string())?;
                let json = serde_json::to_string(&prepared).map_err(|e| e.to_string())?;
                self.store.set_prepared(id, json).await.map_err(|e| e.to_string())?;
                let (guest, schema) = open(prepared).await.map_err(|e| e.to_string())?;
                Ok((guest, schema, manifest.deterministic))
            }
            Err(e) => Err(e.to_string()),
        }
    }
}

//! One call of a version: input checked, admitted, run on a lane, its outcome turned into what the caller sees.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::app::App;
use crate::auth::Principal;
use crate::catalog::Version;
use crate::engine::{Call, Cancel, Code, Event, Failure, InputFile, Outcome, OutputFile, files};
use crate::ids;
use crate::lanes::{Refusal, Ticket};
use crate::predictions::billing::{self, Reserved};
use crate::predictions::cache::{self, CacheKey, Kept};
use crate::predictions::record::Cached;
use crate::problem::Problem;
use crate::quarantine::Quarantine;
use crate::redact::Redactor;
use crate::schema::FieldError;
use crate::shelf::Ready;
use crate::store::ledger::Use;
use crate::store::now_ms;

/// Bodies beyond this are parsed and checked on a blocking thread, so that other requests go on meanwhile.
const LARGE_BODY: usize = 256 << 10;

/// When to try again if other calls hold the memory that one needs, in seconds.
pub(crate) const CROWDED: u64 = 5;

/// Is told of what a call says while it runs, on the lane's thread.
pub(crate) type Listener = Box<dyn FnMut(Event) + Send + Sync>;

/// Cancels the call when whoever waits for it goes away.
pub(crate) struct CancelOnDrop(Cancel);

impl CancelOnDrop {
    /// Guards a call.
    pub(crate) fn new(cancel: Cancel) -> Self {
        Self(cancel)
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// How a call ended and how long it had waited, or why it was not made.
type Ended = (Result<Outcome, Arc<Quarantine>>, Duration);

/// Where a call's outcome comes from.
enum Origin {
    Lane {
        outcome: oneshot::Receiver<Ended>,
        reserved: Option<Reserved>,
        key: Option<CacheKey>,
    },
    Cache(Arc<Kept>),
}

/// A call that was accepted.
pub(crate) struct Running {
    from: Origin,
    started: Instant,
    version: Arc<Version>,
    ready: Arc<Ready>,
    owner: Arc<str>,
    token: String,
    /// Whether the caller may see the guest's inner life.
    contributor: bool,
    _cancel: CancelOnDrop,
}

/// What a call returned and what it took.
pub(crate) struct Reply {
    /// The output as JSON text, files embedded.
    pub(crate) json: String,
    /// How many items of it were streamed before.
    pub(crate) items: usize,
    /// Waiting for a lane.
    pub(crate) queue_us: u64,
    /// Inside tensor ops.
    pub(crate) compute_us: u64,
    /// From the end of the request to now.
    pub(crate) total_us: u64,
    /// What the cache had to do with it.
    pub(crate) cache: Cached,
}

/// What is asked for.
pub(crate) struct Ask<'a> {
    pub(crate) principal: &'a Principal,
    pub(crate) version: &'a Arc<Version>,
    pub(crate) body: bytes::Bytes,
    /// When the request had arrived whole.
    pub(crate) started: Instant,
    /// A fresh run, whatever is in the cache.
    pub(crate) fresh: bool,
    /// What URLs begin with.
    pub(crate) origin: String,
    /// The caller's token.
    pub(crate) secret: Option<&'a str>,
    pub(crate) events: Option<Listener>,
}

/// Checks the input and queues the call.
pub(crate) async fn start(app: &Arc<App>, ask: Ask<'_>) -> Result<Running, Problem> {
    let Ask {
        principal,
        version,
        body,
        started,
        fresh,
        origin,
        secret,
        events,
    } = ask;
    let ready = app.shelf.callable(version).await?;
    let owner = principal.owner();
    refuse_early(app, owner, &ready, fresh)?;
    let size = body.len();
    let parsed = if size > LARGE_BODY {
        let parse = move || serde_json::from_slice(&body).map_err(|e| invalid_json(&e));
        tokio::task::spawn_blocking(parse).await.map_err(Problem::internal)?
    } else {
        serde_json::from_slice(&body).map_err(|e| invalid_json(&e))
    };
    let found = async {
        let mut input: Value = parsed?;
        let redactor = Redactor::of(&ready.input, &input, secret);
        let files = checked(app, owner, &origin, &ready, &mut input, size).await?;
        Ok((input, files, redactor))
    };
    let (input, files, redactor) = found
        .await
        .inspect_err(|problem: &Problem| app.metrics.refused(&ready.metrics, problem.code()))?;
    // Nothing is kept of what is secret.
    let key = (!fresh && redactor.is_empty() && cache::is_deterministic(ready.deterministic, &input))
        .then(|| cache::key(owner, version.id, &input, &files))
        .flatten();
    let cancel = Cancel::default();
    let from = match key.as_ref().and_then(|key| app.predictions.cache.get(key)) {
        Some(kept) => Origin::Cache(kept),
        None => {
            let price = app.config.price_per_ms;
            let reserved = billing::reserve(&app.predictions.spend, owner, ready.cost_us(), price)?;
            let timeout = billing::time_limit(reserved.as_ref(), price);
            let call = Call {
                owner: Arc::clone(owner),
                input: input.to_string(),
                files,
                seed: ids::seed(),
                timeout,
                cancel: cancel.clone(),
                events,
            };
            match submit(app, owner, &ready, call, redactor) {
                Ok(outcome) => Origin::Lane { outcome, reserved, key },
                Err(problem) => {
                    billing::settle(&app.predictions.spend, reserved.as_ref(), 0);
                    return Err(problem);
                }
            }
        }
    };
    let contributor = principal.publishes_for(version.model.split('/').next().unwrap_or_default());
    Ok(Running {
        from,
        started,
        version: Arc::clone(version),
        ready,
        owner: Arc::clone(owner),
        token: principal.token_id().to_owned(),
        contributor,
        _cancel: CancelOnDrop::new(cancel),
    })
}

/// Puts a call before the lanes.
fn submit(
    app: &App,
    owner: &Arc<str>,
    ready: &Arc<Ready>,
    call: Call,
    redactor: Redactor,
) -> Result<oneshot::Receiver<Ended>, Problem> {
    let held: usize = call.input.len() + call.files.iter().map(|file| file.bytes.len()).sum::<usize>();
    let ticket = Ticket {
        tenant: Arc::clone(owner),
        cost_us: ready.cost_us(),
        bytes: held as u64,
        cancel: call.cancel.clone(),
    };
    let (done, outcome) = oneshot::channel();
    let (on_lane, caller, store) = (Arc::clone(ready), Arc::clone(owner), Arc::clone(&app.store));
    let job = Box::new(move |waited: Duration| {
        if call.cancel.is_cancelled() {
            return;
        }
        let outcome = on_lane.call(&store, &caller, call, redactor);
        // Nobody listens if the caller left.
        let _ = done.send((outcome, waited));
    });
    app.lanes
        .submit(ticket, job)
        .map_err(|refusal| refused(app, ready, refusal))?;
    Ok(outcome)
}

/// Refuses what the lanes have no room for before any work is done for it, unless the cache may answer.
pub(crate) fn refuse_early(app: &App, owner: &Arc<str>, ready: &Ready, fresh: bool) -> Result<(), Problem> {
    if !fresh && ready.may_be_cached() {
        return Ok(());
    }
    match app.lanes.refuses(owner) {
        Some(refusal) => Err(refused(app, ready, refusal)),
        None => Ok(()),
    }
}

/// A lane's refusal, counted, as the caller sees it.
pub(crate) fn refused(app: &App, ready: &Ready, refusal: Refusal) -> Problem {
    let problem = match refusal {
        Refusal::OverShare(seconds) => Problem::over_share(seconds),
        Refusal::Full(seconds) => Problem::busy("more calls wait than the server can serve in time", seconds),
        Refusal::Closed => Problem::stopping(),
    };
    app.metrics.refused(&ready.metrics, problem.code());
    problem
}

impl Running {
    /// The version that serves the call.
    pub(crate) fn ready(&self) -> &Arc<Ready> {
        &self.ready
    }

    /// Waits for the end.
    pub(crate) async fn finish(mut self, app: &App) -> Result<Reply, Problem> {
        let from = std::mem::replace(&mut self.from, Origin::Cache(Arc::default()));
        let (outcome, reserved, key) = match from {
            Origin::Cache(kept) => return self.cached(app, &kept),
            Origin::Lane { outcome, reserved, key } => (outcome.await, reserved, key),
        };
        let Ok((outcome, waited)) = outcome else {
            billing::settle(&app.predictions.spend, reserved.as_ref(), 0);
            // The lanes dropped the job: it was cancelled while it waited, which only a stopping server does to one who waits.
            return Err(Problem::stopping());
        };
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(why) => {
                billing::settle(&app.predictions.spend, reserved.as_ref(), 0);
                let problem = Problem::quarantined(&self.version.model, self.version.id, &why);
                app.metrics.refused(&self.ready.metrics, problem.code());
                return Err(problem);
            }
        };
        let (queue_us, total_us) = (micros(waited), micros(self.started.elapsed()));
        let compute_us = outcome.report.compute_us;
        let billed_ms = billing::billed_ms(compute_us);
        let cost = billed_ms.saturating_mul(app.config.price_per_ms);
        billing::settle(&app.predictions.spend, reserved.as_ref(), cost);
        self.count(app, Cached::Off, compute_us, billed_ms, cost);
        match outcome.result {
            Ok(output) => {
                app.metrics.served(&self.ready.metrics, queue_us, compute_us, total_us);
                let json = if output.files.is_empty() {
                    output.json.clone()
                } else {
                    with_files(&output.json, &output.files)?
                };
                let items = output.items;
                if let Some(key) = key {
                    let logs: String = outcome
                        .report
                        .logs
                        .iter()
                        .flat_map(|line| [line.message.as_str(), "\n"])
                        .collect();
                    let metrics = serde_json::to_string(&outcome.report.metrics).unwrap_or_default();
                    let kept = Kept {
                        json: output.json,
                        files: output.files,
                        logs,
                        metrics,
                    };
                    app.predictions.cache.put(key, kept);
                }
                Ok(Reply {
                    json,
                    items,
                    queue_us,
                    compute_us,
                    total_us,
                    cache: if key.is_some() { Cached::Miss } else { Cached::Off },
                })
            }
            Err(failure) => {
                app.metrics
                    .failed(&self.ready.metrics, code(&failure), queue_us, compute_us, total_us);
                if failure.code != Code::InvalidInput {
                    tracing::warn!(
                        model = %self.version.model, version = %self.version.id, code = code(&failure),
                        message = failure.message, "a call failed"
                    );
                }
                Err(explain(failure, self.contributor))
            }
        }
    }

    fn cached(&self, app: &App, kept: &Kept) -> Result<Reply, Problem> {
        let total_us = micros(self.started.elapsed());
        app.metrics.served(&self.ready.metrics, 0, 0, total_us);
        self.count(app, Cached::Hit, 0, 0, 0);
        let json = if kept.files.is_empty() {
            kept.json.clone()
        } else {
            with_files(&kept.json, &kept.files)?
        };
        Ok(Reply {
            json,
            items: 0,
            queue_us: 0,
            compute_us: 0,
            total_us,
            cache: Cached::Hit,
        })
    }

    /// Adds to what the caller used.
    fn count(&self, app: &App, cache: Cached, compute_us: u64, billed_ms: u64, cost: u64) {
        if let Some(model) = app.catalog.now().model(&self.version.model) {
            model.runs.fetch_add(1, Ordering::Relaxed);
        }
        app.predictions.meter.add(Use {
            owner: Arc::clone(&self.owner),
            day: now_ms().div_euclid(86_400_000),
            model: Arc::clone(&self.version.model),
            version: self.version.id,
            token: self.token.clone(),
            predictions: 1,
            cached: u64::from(cache == Cached::Hit),
            compute_us,
            billed_ms,
            cost,
        });
    }
}

/// An output with its files inside.
fn with_files(json: &str, of: &[OutputFile]) -> Result<String, Problem> {
    let mut value = serde_json::from_str(json).map_err(Problem::internal)?;
    files::embed(&mut value, of);
    Ok(value.to_string())
}

/// What a caller sees of a call that failed:
///
/// | code of the guest or sandbox | status | why |
/// |---|---|---|
/// | invalid-input | 422 | the caller's input |
/// | quota | 422 | this input needs more than the version may use: memory, tensors, output, files |
/// | quota, because of other calls | 503 | they hold the memory that it needed |
/// | timeout | 504 | the version's time limit |
/// | cancelled | 503 | only a stopping server cancels a call whose caller is still there |
/// | shape, dtype, unsupported, internal | 500 | a fault of the model |
fn explain(failure: Failure, contributor: bool) -> Problem {
    let message = failure.message;
    let problem = match failure.code {
        _ if failure.crowded => Problem::busy(message, CROWDED),
        Code::InvalidInput => Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid input",
            "invalid-input",
            message,
        ),
        Code::Quota => Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "Limit exceeded", "quota", message),
        Code::Timeout => Problem::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", "timeout", message),
        Code::Cancelled => Problem::stopping(),
        code @ (Code::Shape | Code::DType | Code::Unsupported | Code::Internal) => Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Model failed",
            "model-failed",
            message,
        )
        .with("model_code", code.name().into()),
    };
    match failure.detail {
        Some(detail) if contributor => problem.with("log", detail.into()),
        _ => problem,
    }
}

/// How a call failed, in a word for figures.
pub(crate) fn code(failure: &Failure) -> &'static str {
    if failure.crowded { "busy" } else { failure.code.name() }
}

/// Fills in an input's defaults, checks it, and takes its files out. `size` is how long it was as text.
pub(crate) async fn checked(
    app: &Arc<App>,
    owner: &Arc<str>,
    origin: &str,
    ready: &Arc<Ready>,
    input: &mut Value,
    size: usize,
) -> Result<Vec<InputFile>, Problem> {
    if size > LARGE_BODY {
        let (mut value, ready) = (std::mem::take(input), Arc::clone(ready));
        let work = move || {
            let fits = fit(&ready, &mut value);
            (fits, value)
        };
        let (fits, value) = tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?;
        *input = value;
        fits
    } else {
        fit(ready, input)
    }
    .map_err(|errors| Problem::invalid_input(&errors))?;
    if ready.input.has_files() {
        app.files
            .extract_inputs(owner, origin, ready.input.value(), input)
            .await
    } else {
        Ok(Vec::new())
    }
}

/// The 400 for a body that is not JSON.
pub(crate) fn invalid_json(error: &serde_json::Error) -> Problem {
    Problem::new(
        StatusCode::BAD_REQUEST,
        "Invalid JSON",
        "invalid-json",
        format!("the body is not JSON: {error}"),
    )
    .with("line", json!(error.line()))
    .with("column", json!(error.column()))
}

fn fit(ready: &Ready, input: &mut Value) -> Result<(), Vec<FieldError>> {
    if !input.is_object() {
        let message = "the input must be a JSON object of the model's fields".to_owned();
        return Err(vec![FieldError {
            field: String::new(),
            message,
        }]);
    }
    ready.input.fill(input);
    ready.input.check(input)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

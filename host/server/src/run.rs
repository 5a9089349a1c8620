//! One call of a version: input checked, admitted, run on a lane, its outcome turned into what the caller sees.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::app::App;
use crate::auth::Principal;
use crate::catalog::Version;
use crate::engine::{Call, Cancel, Code, Event, Failure, Outcome, files};
use crate::ids;
use crate::lanes::{Refusal, Ticket};
use crate::problem::Problem;
use crate::schema::FieldError;
use crate::shelf::Ready;

/// Bodies beyond this are parsed and checked on a blocking thread, so that other requests go on meanwhile.
const LARGE_BODY: usize = 256 << 10;

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

/// A call that was accepted.
pub(crate) struct Running {
    outcome: oneshot::Receiver<(Outcome, Duration)>,
    started: Instant,
    version: Arc<Version>,
    ready: Arc<Ready>,
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
}

/// Checks the input and queues the call. `started` is when the request had arrived whole.
pub(crate) async fn start(
    app: &Arc<App>,
    principal: &Principal,
    version: &Arc<Version>,
    body: bytes::Bytes,
    started: Instant,
    events: Option<Listener>,
) -> Result<Running, Problem> {
    let ready = app.shelf.ready(version).await?;
    let checked = if body.len() > LARGE_BODY {
        let ready = Arc::clone(&ready);
        let work = tokio::task::spawn_blocking(move || check(&ready, &body));
        work.await.map_err(Problem::internal)?
    } else {
        check(&ready, &body)
    };
    let (input, files) = checked.inspect_err(|problem| app.metrics.refused(&ready.metrics, problem.code()))?;

    let cancel = Cancel::default();
    let held: usize = input.len() + files.iter().map(|file| file.bytes.len()).sum::<usize>();
    let ticket = Ticket {
        tenant: Arc::clone(principal.owner()),
        cost_us: ready.cost_us(),
        bytes: held as u64,
        cancel: cancel.clone(),
    };
    let call = Call {
        input,
        files,
        seed: ids::seed(),
        timeout: None,
        cancel: cancel.clone(),
        events,
    };
    let (done, outcome) = oneshot::channel();
    let on_lane = Arc::clone(&ready);
    let job = Box::new(move |waited: Duration| {
        if call.cancel.is_cancelled() {
            return;
        }
        let outcome = on_lane.guest.call(call);
        on_lane.took(outcome.report.total_us);
        // Nobody listens if the caller left.
        let _ = done.send((outcome, waited));
    });
    app.lanes.submit(ticket, job).map_err(|refusal| {
        let problem = match refusal {
            Refusal::OverShare(seconds) => Problem::over_share(seconds),
            Refusal::Full(seconds) => Problem::busy("more calls wait than the server can serve in time", seconds),
            Refusal::Closed => Problem::stopping(),
        };
        app.metrics.refused(&ready.metrics, problem.code());
        problem
    })?;
    let contributor = principal.publishes_for(version.model.split('/').next().unwrap_or_default());
    Ok(Running {
        outcome,
        started,
        version: Arc::clone(version),
        ready,
        contributor,
        _cancel: CancelOnDrop::new(cancel),
    })
}

impl Running {
    /// The version that serves the call.
    pub(crate) fn ready(&self) -> &Arc<Ready> {
        &self.ready
    }

    /// Waits for the end.
    pub(crate) async fn finish(self, app: &App) -> Result<Reply, Problem> {
        let Ok((outcome, waited)) = self.outcome.await else {
            // The lanes dropped the job: it was cancelled while it waited, which only a stopping server does to one who waits.
            return Err(Problem::stopping());
        };
        let (queue_us, total_us) = (micros(waited), micros(self.started.elapsed()));
        let compute_us = outcome.report.compute_us;
        match outcome.result {
            Ok(output) => {
                app.metrics.served(&self.ready.metrics, queue_us, compute_us, total_us);
                let json = if output.files.is_empty() {
                    output.json
                } else {
                    let mut value = serde_json::from_str(&output.json).map_err(Problem::internal)?;
                    files::embed(&mut value, &output.files);
                    value.to_string()
                };
                Ok(Reply {
                    json,
                    items: output.items,
                    queue_us,
                    compute_us,
                    total_us,
                })
            }
            Err(failure) => {
                app.metrics
                    .failed(&self.ready.metrics, failure.code.name(), queue_us, compute_us, total_us);
                if failure.code != Code::InvalidInput {
                    tracing::warn!(
                        model = %self.version.model, version = %self.version.id, code = failure.code.name(),
                        message = failure.message, "a call failed"
                    );
                }
                Err(explain(failure, self.contributor))
            }
        }
    }
}

/// What a caller sees of a call that failed:
///
/// | code of the guest or sandbox | status | why |
/// |---|---|---|
/// | invalid-input | 422 | the caller's input |
/// | quota | 422 | this input needs more than the version may use: memory, tensors, output, files |
/// | timeout | 504 | the version's time limit |
/// | cancelled | 503 | only a stopping server cancels a call whose caller is still there |
/// | shape, dtype, unsupported, internal | 500 | a fault of the model |
fn explain(failure: Failure, contributor: bool) -> Problem {
    let message = failure.message;
    let problem = match failure.code {
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

/// Parses an input, fills in defaults, checks it, and takes its files out.
fn check(ready: &Ready, body: &[u8]) -> Result<(String, Vec<crate::engine::InputFile>), Problem> {
    let mut input: Value = serde_json::from_slice(body).map_err(|e| invalid_json(&e))?;
    fit(ready, &mut input).map_err(|errors| Problem::invalid_input(&errors))?;
    let files = if ready.input.has_files() {
        files::extract(ready.input.value(), &mut input).map_err(|e| Problem::invalid_input(&[field_of(&e.message)]))?
    } else {
        Vec::new()
    };
    Ok((input.to_string(), files))
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

/// `images[1]: expected …` as a field and a message.
fn field_of(message: &str) -> FieldError {
    let (field, message) = message.split_once(": ").unwrap_or(("", message));
    FieldError {
        field: field.to_owned(),
        message: message.to_owned(),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

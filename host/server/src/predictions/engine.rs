//! Takes a request for a prediction through its life: accepted and on disk, run on a lane, ended on disk, told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Alone;
use super::billing::{self, Reserved};
use super::cache::{self, CacheKey, Kept};
use super::live::{Live, Reason};
use super::record::{Cached, Events, Prediction, Source, Took, Webhook};
use super::request::redact;
use super::status::Status;
use super::telling::Telling;
use crate::app::App;
use crate::auth::Principal;
use crate::catalog::Version;
use crate::engine::{Call, Code, Failure, InputFile, Outcome, Output, OutputFile};
use crate::http::streams::shown;
use crate::ids;
use crate::lanes::{Job as LaneJob, Ticket};
use crate::problem::Problem;
use crate::run::{checked, refused};
use crate::shelf::Ready;
use crate::store::ledger::{self, IdempotencyKey};
use crate::store::{Store, StoreError, now_ms};
use crate::webhooks::records::{NewDelivery, enqueue};

/// How long the row of a call whose caller waits for the end may stay unwritten: most such calls are over by then and are
/// written once.
const HOLD: Duration = Duration::from_millis(20);

/// How often an end is tried to be written before it is left to the next start of the server.
const WRITES: u32 = 6;

/// What is asked for.
pub(crate) struct Ask {
    pub(crate) principal: Principal,
    pub(crate) version: Arc<Version>,
    /// `owner/name`, if it was asked for by a deployment's name.
    pub(crate) deployment: Option<String>,
    pub(crate) input: Map<String, Value>,
    pub(crate) webhook: Option<Webhook>,
    /// From now.
    pub(crate) cancel_after: Option<Duration>,
    /// The caller's own id for it, known to be free.
    pub(crate) id: Option<String>,
    /// The caller's own name for the request, known to be new.
    pub(crate) key: Option<IdempotencyKey>,
    /// A fresh run, whatever is in the cache.
    pub(crate) fresh: bool,
    pub(crate) source: Source,
    /// What URLs begin with.
    pub(crate) origin: String,
    /// The caller's token, which is not kept even if the caller sends it along.
    pub(crate) secret: Option<String>,
    /// Whether the caller waits for the end, so that the row may be written with it.
    pub(crate) waits: bool,
    /// Held until the row is on disk.
    pub(crate) alone: Vec<Alone>,
}

/// A prediction that was accepted for a caller who is still there.
pub(crate) struct Accepted {
    pub(crate) live: Arc<Live>,
    /// Whether it is stopped when the caller goes away.
    theirs: bool,
}

impl Accepted {
    /// The caller has its reply.
    pub(crate) fn told(mut self) {
        self.theirs = false;
    }
}

impl Drop for Accepted {
    fn drop(&mut self) {
        if self.theirs {
            self.live.stop(Reason::Caller);
        }
    }
}

/// Accepts a prediction: from the return on it is on disk, or its caller waits for it.
pub(crate) async fn create(app: &Arc<App>, ask: Ask) -> Result<Accepted, Problem> {
    if app.stopping.load(Ordering::Relaxed) {
        return Err(Problem::stopping());
    }
    let ready = app.shelf.ready(&ask.version).await?;
    let owner = Arc::clone(ask.principal.owner());
    let mut input = Value::Object(ask.input);
    let mut kept_input = input.clone();
    let secret = redact(ready.input.value(), &mut kept_input, ask.secret.as_deref());
    let kept_input: Arc<str> = kept_input.to_string().into();
    let (input, files) = {
        let ready = Arc::clone(&ready);
        let size = kept_input.len();
        let found = checked(app, &owner, &ask.origin, &ready, &mut input, size).await;
        let files = found.inspect_err(|problem| app.metrics.refused(&ready.metrics, problem.code()))?;
        (input, files)
    };
    let key = (!ask.fresh && cache::is_deterministic(ready.deterministic, &input))
        .then(|| cache::key(&owner, ask.version.id, &input, &files))
        .flatten();

    let now = now_ms();
    let id = match ask.id {
        Some(id) => id,
        None => ids::random().to_str().map_err(Problem::internal)?.to_owned(),
    };
    let row = Prediction {
        owner,
        id: id.into(),
        token: ask.principal.token_id().to_owned(),
        model: Arc::clone(&ask.version.model),
        version: ask.version.id,
        deployment: ask.deployment,
        status: Status::Starting,
        source: ask.source,
        origin: ask.origin,
        input: kept_input,
        secret,
        output: None,
        error: None,
        logs: String::new(),
        metrics: "{}".to_owned(),
        created_at: now,
        started_at: None,
        completed_at: None,
        deadline: ask
            .cancel_after
            .map(|after| now.saturating_add(i64::try_from(after.as_millis()).unwrap_or(i64::MAX))),
        attempt: 1,
        webhook: ask.webhook,
        cache: if key.is_some() { Cached::Miss } else { Cached::Off },
        took: Took::default(),
        removed: false,
    };
    let work = Work {
        ready,
        input,
        files,
        key,
        name: ask.key,
    };
    // Whoever waits and goes away wants it no more, unless there is another way to learn of it.
    let theirs = ask.waits && row.webhook.is_none() && work.name.is_none();
    let (accepting, alone) = (Arc::clone(app), ask.alone);
    let (send, accepted) = oneshot::channel();
    // The caller may go away at any moment; what has begun is brought to its end all the same.
    app.predictions.tasks.spawn(async move {
        let live = accept(&accepting, row, work, theirs).await;
        drop(alone);
        let _ = send.send(live.map(|live| Accepted { live, theirs }));
    });
    accepted.await.map_err(|_| Problem::stopping())?
}

/// What a prediction needs to run.
pub(super) struct Work {
    pub(super) ready: Arc<Ready>,
    /// Checked, defaults filled in, files taken out.
    pub(super) input: Value,
    pub(super) files: Vec<InputFile>,
    /// Where its output is kept, if it may be.
    pub(super) key: Option<CacheKey>,
    /// The caller's name for the request, to be written with the row.
    pub(super) name: Option<IdempotencyKey>,
}

/// `hold`: nobody can learn of it but its caller, who waits; the row may be written with the end.
async fn accept(app: &Arc<App>, row: Prediction, work: Work, hold: bool) -> Result<Arc<Live>, Problem> {
    if let Some(kept) = work.key.as_ref().and_then(|key| app.predictions.cache.get(key)) {
        return answer_from_cache(app, row, work, &kept).await;
    }
    let live = Live::new(row);
    if let Some(key) = work.key
        && let Some(leader) = app.predictions.cache.lead(key, &live)
    {
        let mut row = live.row();
        row.cache = Cached::Shared;
        let live = Live::new(row);
        app.predictions.put(&live);
        record(app, &live, work.name.clone()).await?;
        let follower = follow(Arc::clone(app), Arc::clone(&live), leader, key, work);
        app.predictions.tasks.spawn(follower);
        return Ok(live);
    }
    let name = work.name.clone();
    app.predictions.put(&live);
    let job = match launch(app, &live, work, Admission::Asked) {
        Ok(job) => job,
        Err(problem) => {
            app.predictions.forget(&live);
            // Others may wait for its output already.
            live.leave();
            return Err(problem);
        }
    };
    if !hold && let Err(problem) = record(app, &live, name).await {
        live.stop(Reason::Caller);
        job.give_up(app, &live);
        live.leave();
        return Err(problem);
    }
    app.predictions
        .tasks
        .spawn(see_through(Arc::clone(app), Arc::clone(&live), job));
    Ok(live)
}

/// Writes the row of a prediction that has not ended.
async fn record(app: &App, live: &Live, name: Option<IdempotencyKey>) -> Result<(), Problem> {
    let row = live.row();
    let written = app.store.write(move |c| ledger::insert(c, &row, name.as_ref())).await;
    match written {
        Ok(()) => {
            live.set_recorded();
            Ok(())
        }
        Err(e) => {
            app.predictions.forget(live);
            Err(not_written(e))
        }
    }
}

fn not_written(error: StoreError) -> Problem {
    match error {
        StoreError::Closed => Problem::stopping(),
        error => Problem::internal(error),
    }
}

async fn answer_from_cache(
    app: &Arc<App>,
    mut row: Prediction,
    work: Work,
    kept: &Arc<Kept>,
) -> Result<Arc<Live>, Problem> {
    row.cache = Cached::Hit;
    let items = take_over(app, &mut row, kept, work.ready.iterator)
        .await
        .map_err(Problem::internal)?;
    let (name, ended, told) = (work.name, row.clone(), announcement(app, &row));
    let live = Live::new(row);
    app.store
        .write(move |c| {
            ledger::insert(c, &ended, name.as_ref())?;
            announce(c, told.as_ref())
        })
        .await
        .map_err(not_written)?;
    live.set_items(items);
    app.predictions.put(&live);
    app.predictions.retire(&live);
    app.ended(&live.row());
    app.metrics.served(&work.ready.metrics, 0, 0, 0);
    Ok(live)
}

/// Makes a kept output a row's. Returns its items if it is an iterator's.
async fn take_over(
    app: &App,
    row: &mut Prediction,
    kept: &Kept,
    iterator: bool,
) -> Result<Option<Vec<Arc<str>>>, String> {
    let now = now_ms();
    let (json, items) = placed(app, row, &kept.json, &kept.files, iterator).await?;
    row.status = Status::Succeeded;
    row.output = Some(json.into());
    row.logs.clone_from(&kept.logs);
    row.metrics.clone_from(&kept.metrics);
    row.started_at = Some(now);
    row.completed_at = Some(now);
    Ok(items)
}

/// Waits for an identical prediction's end and takes its output; if it has none, runs.
async fn follow(app: Arc<App>, live: Arc<Live>, leader: Arc<Live>, key: CacheKey, work: Work) {
    let mut halt = app.halt.subscribe();
    let deadline = until(live.row().deadline);
    let mut changes = live.watch();
    changes.mark_changed();
    tokio::pin!(deadline);
    let reason = loop {
        tokio::select! {
            () = leader.ended() => break None,
            () = &mut deadline => {
                live.stop(Reason::Deadline);
                break Some(Reason::Deadline);
            }
            _ = changes.changed() => {
                if let (Some(reason), _) = live.stopping() {
                    break Some(reason);
                }
            }
            _ = halt.wait_for(|halt| *halt) => return,
        }
    };
    let mut row = live.row();
    if let Some(reason) = reason {
        stopped(&mut row, reason);
        return finish(&app, &live, row, true, None).await;
    }
    if let Some(kept) = app.predictions.cache.get(&key)
        && let Ok(items) = take_over(&app, &mut row, &kept, work.ready.iterator).await
    {
        live.set_items(items);
        app.metrics.served(&work.ready.metrics, 0, 0, 0);
        return finish(&app, &live, row, true, None).await;
    }
    match launch(&app, &live, Work { key: None, ..work }, Admission::Promised) {
        Ok(mut job) => {
            job.recorded = true;
            see_through(app, live, job).await;
        }
        Err(problem) if is_stopping(&problem) => leave(&app, &live),
        Err(problem) => failed_before(&app, &live, row, problem.detail().to_owned()).await,
    }
}

/// Whether a call has to be let in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is new.
    Asked,
    /// It was accepted before.
    Promised,
    /// It was accepted by a process before this one, which may have ended because of it.
    Again,
}

/// A prediction on its way through a lane.
pub(super) struct Job {
    outcome: oneshot::Receiver<(Outcome, Duration)>,
    ready: Arc<Ready>,
    reserved: Option<Reserved>,
    key: Option<CacheKey>,
    name: Option<IdempotencyKey>,
    /// Whether its row is on disk.
    pub(super) recorded: bool,
}

impl Job {
    /// It will not be seen through.
    fn give_up(self, app: &App, live: &Arc<Live>) {
        billing::settle(&app.predictions.spend, self.reserved.as_ref(), 0);
        if let Some(key) = &self.key {
            app.predictions.cache.land(key, live);
        }
    }
}

/// Puts a prediction before the lanes.
pub(super) fn launch(app: &App, live: &Arc<Live>, work: Work, admission: Admission) -> Result<Job, Problem> {
    let Work {
        ready,
        input,
        files,
        key,
        name,
    } = work;
    let owner = &live.key.0;
    let price = app.config.price_per_ms;
    let land = || {
        if let Some(key) = &key {
            app.predictions.cache.land(key, live);
        }
    };
    let reserved = billing::reserve(&app.predictions.spend, owner, ready.cost_us(), price).inspect_err(|_| land())?;
    // It is stopped where it would cost more than it may.
    let timeout = billing::time_limit(reserved.as_ref(), price);
    let input = input.to_string();
    let held: usize = input.len() + files.iter().map(|file| file.bytes.len()).sum::<usize>();
    let ticket = Ticket {
        tenant: Arc::clone(owner),
        cost_us: ready.cost_us(),
        bytes: held as u64,
        cancel: live.cancel.clone(),
    };
    let hears = Arc::clone(live);
    let call = Call {
        input,
        files,
        seed: ids::seed(),
        timeout,
        cancel: live.cancel.clone(),
        events: Some(Box::new(move |event| hears.hear(event))),
    };
    let (done, outcome) = oneshot::channel();
    let (on_lane, begins) = (Arc::clone(&ready), Arc::clone(live));
    let store = (admission == Admission::Again).then(|| Arc::clone(&app.store));
    let run: LaneJob = Box::new(move |waited: Duration| {
        if !begins.begin() {
            return;
        }
        if let Some(store) = store
            && !begin_again(&store, &begins)
        {
            return;
        }
        let outcome = on_lane.guest.call(call);
        on_lane.took(outcome.report.total_us);
        let _ = done.send((outcome, waited));
    });
    let taken = match admission {
        Admission::Asked => app.lanes.submit(ticket, run),
        Admission::Promised | Admission::Again => app.lanes.resubmit(ticket, run),
    };
    if let Err(refusal) = taken {
        billing::settle(&app.predictions.spend, reserved.as_ref(), 0);
        land();
        return Err(refused(app, &ready, refusal));
    }
    Ok(Job {
        outcome,
        ready,
        reserved,
        key,
        name,
        recorded: admission != Admission::Asked,
    })
}

/// Counts a further attempt before it begins, so that what ends the server is given up some time.
fn begin_again(store: &Store, live: &Live) -> bool {
    let (owner, id) = live.key.clone();
    let attempt = live.row().attempt.saturating_add(1);
    match store.write_blocking(move |c| ledger::begin_again(c, &owner, &id, attempt)) {
        Ok(true) => {
            live.set_attempt(attempt);
            true
        }
        Ok(false) => false,
        Err(e) => {
            tracing::error!(id = %live.key.1, "a prediction cannot be begun again: {e}");
            false
        }
    }
}

/// Sees a prediction through to its end.
pub(super) async fn see_through(app: Arc<App>, live: Arc<Live>, mut job: Job) {
    let begun = live.row();
    let deadline = until(begun.deadline);
    let hold = tokio::time::sleep(HOLD);
    let mut changes = live.watch();
    // It may have been stopped before anybody watched.
    changes.mark_changed();
    tokio::pin!(deadline, hold);
    // Whoever created it may have written it already.
    let mut recorded = job.recorded || live.is_recorded();
    let mut telling = Telling::new(&begun);
    let outcome = loop {
        tokio::select! {
            biased;
            outcome = &mut job.outcome => break outcome.ok(),
            () = &mut hold, if !recorded => {
                recorded = true;
                if record(&app, &live, job.name.take()).await.is_err() {
                    live.stop(Reason::Caller);
                    recorded = false;
                }
            }
            () = &mut deadline => {
                live.stop(Reason::Deadline);
                deadline.set(until(None));
            }
            _ = changes.changed() => {
                if let (Some(_), false) = live.stopping() {
                    break None;
                }
                telling.changed(&app, &live);
            }
            () = telling.due() => telling.tell(&app, &live),
        }
    };
    if let Some(key) = &job.key
        && outcome.as_ref().is_none_or(|(outcome, _)| outcome.result.is_err())
    {
        app.predictions.cache.land(key, &live);
    }
    let mut row = live.row();
    let (reason, _) = live.stopping();
    match (outcome, reason) {
        // Neither its caller nor its deadline ended it: the server is stopping, and the next start runs it again.
        (None, None) => return left(&app, &live, job),
        (Some((outcome, _)), None) if is_cancelled(&outcome) => return left(&app, &live, job),
        (None, Some(reason)) => stopped(&mut row, reason),
        (Some((outcome, waited)), reason) => {
            measured(&app, &mut row, &outcome, waited);
            let reserved = job.reserved.take();
            billing::settle(&app.predictions.spend, reserved.as_ref(), row.took.cost);
            let limited = billing::time_limit(reserved.as_ref(), app.config.price_per_ms);
            let queue_us = row.took.queue_us;
            let total_us = queue_us + row.took.total_us;
            match outcome.result {
                Ok(output) => {
                    app.metrics
                        .served(&job.ready.metrics, queue_us, row.took.compute_us, total_us);
                    succeeded(&app, &live, &mut row, output, &job).await;
                }
                Err(failure) => {
                    let code = failure.code.name();
                    app.metrics
                        .failed(&job.ready.metrics, code, queue_us, row.took.compute_us, total_us);
                    match reason {
                        Some(reason) if failure.code == Code::Cancelled => stopped(&mut row, reason),
                        _ => failed(&mut row, failure, limited),
                    }
                }
            }
        }
    }
    billing::settle(&app.predictions.spend, job.reserved.take().as_ref(), 0);
    finish(&app, &live, row, recorded, job.name.take()).await;
    if let Some(key) = &job.key {
        app.predictions.cache.land(key, &live);
    }
}

fn is_cancelled(outcome: &Outcome) -> bool {
    matches!(&outcome.result, Err(failure) if failure.code == Code::Cancelled)
}

/// The server stops before its end. Whoever waits is told; what is on disk stays as it is.
fn left(app: &App, live: &Arc<Live>, job: Job) {
    job.give_up(app, live);
    leave(app, live);
}

/// Leaves one to the next start.
pub(super) fn leave(app: &App, live: &Live) {
    app.predictions.forget(live);
    live.leave();
}

/// Whether something is refused only because the server stops.
pub(super) fn is_stopping(problem: &Problem) -> bool {
    problem.code() == "stopping"
}

async fn until(deadline: Option<i64>) {
    match deadline {
        Some(at) => {
            let left = u64::try_from(at - now_ms()).unwrap_or(0);
            tokio::time::sleep_until(Instant::now() + Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}

/// What a run took, and what that costs.
fn measured(app: &App, row: &mut Prediction, outcome: &Outcome, waited: Duration) {
    let report = &outcome.report;
    let billed_ms = billing::billed_ms(report.compute_us);
    row.took = Took {
        queue_us: u64::try_from(waited.as_micros()).unwrap_or(u64::MAX),
        total_us: report.total_us,
        compute_us: report.compute_us,
        load_us: report.load_us,
        billed_ms,
        cost: billed_ms.saturating_mul(app.config.price_per_ms),
    };
    row.metrics = serde_json::to_string(&report.metrics).unwrap_or_else(|_| "{}".to_owned());
    row.completed_at = Some(now_ms());
}

/// Stopped by its caller or its deadline.
pub(super) fn stopped(row: &mut Prediction, reason: Reason) {
    row.status = Status::Canceled;
    row.error = reason.error().map(str::to_owned);
    row.completed_at = Some(now_ms());
}

fn failed(row: &mut Prediction, failure: Failure, limited: Option<Duration>) {
    row.status = Status::Failed;
    // What its owner may spend was less than the version's own time.
    let by_limit = failure.code == Code::Timeout
        && limited.is_some_and(|limit| u128::from(row.took.total_us) <= limit.as_micros() + limit.as_micros() / 2);
    row.error = Some(if by_limit {
        format!("{}: your spend limit leaves no more", failure.message)
    } else {
        failure.message
    });
}

async fn succeeded(app: &App, live: &Live, row: &mut Prediction, output: Output, job: &Job) {
    match placed(app, row, &output.json, &output.files, job.ready.iterator).await {
        Ok((json, placed)) => {
            row.status = Status::Succeeded;
            row.output = Some(json.into());
            live.set_items(placed);
        }
        Err(why) => {
            tracing::error!(id = %row.id, why, "an output could not be kept");
            row.status = Status::Failed;
            row.error = Some("the output could not be kept".to_owned());
            return;
        }
    }
    if let Some(key) = job.key {
        app.predictions.cache.put(
            key,
            Kept {
                json: output.json,
                files: output.files,
                logs: row.logs.clone(),
                metrics: row.metrics.clone(),
            },
        );
    }
}

/// An output with its files where callers find them: its JSON, and the items of an iterator's.
async fn placed(
    app: &App,
    row: &Prediction,
    json: &str,
    files: &[OutputFile],
    iterator: bool,
) -> Result<(String, Option<Vec<Arc<str>>>), String> {
    if files.is_empty() && !iterator {
        return Ok((json.to_owned(), None));
    }
    let mut value: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
    if !files.is_empty() {
        app.files
            .keep_outputs(&row.owner, &row.id, &mut value, files.to_vec(), &row.origin)
            .await
            .map_err(|problem| problem.detail().to_owned())?;
    }
    let items = match &value {
        Value::Array(list) if iterator => Some(list.iter().map(|item| item.to_string().into()).collect()),
        _ => None,
    };
    Ok((value.to_string(), items))
}

/// What a webhook is told of an end, if it wants to be.
fn announcement(app: &App, row: &Prediction) -> Option<NewDelivery> {
    let hook = row.webhook.as_ref().filter(|hook| hook.events.has(Events::COMPLETED))?;
    Some(NewDelivery {
        owner: row.owner.to_string(),
        prediction_id: row.id.to_string(),
        url: hook.url.clone(),
        event: "completed",
        body: shown(app, row, None),
    })
}

/// Puts a webhook's last event beside the end that it tells of, in the same transaction.
fn announce(c: &rusqlite::Connection, told: Option<&NewDelivery>) -> rusqlite::Result<()> {
    told.map_or(Ok(()), |told| enqueue(c, told))
}

/// Ends a prediction that was accepted and then could not be run.
pub(super) async fn failed_before(app: &App, live: &Arc<Live>, mut row: Prediction, why: String) {
    row.status = Status::Failed;
    row.error = Some(why);
    finish_now(app, live, row).await;
}

/// Ends a prediction that could not even be begun again.
pub(super) async fn finish_now(app: &App, live: &Arc<Live>, mut row: Prediction) {
    row.completed_at = Some(now_ms());
    finish(app, live, row, true, None).await;
}

/// Writes the end, then shows it.
async fn finish(app: &App, live: &Arc<Live>, row: Prediction, recorded: bool, name: Option<IdempotencyKey>) {
    let mut pause = Duration::from_millis(50);
    for attempt in 1..=WRITES {
        let (end, name, told) = (row.clone(), name.clone(), announcement(app, &row));
        let written = app
            .store
            .write(move |c| {
                let mine = if recorded {
                    ledger::finish(c, &end)?
                } else {
                    ledger::insert(c, &end, name.as_ref())?;
                    true
                };
                if mine {
                    announce(c, told.as_ref())?;
                }
                Ok(mine)
            })
            .await;
        match written {
            Ok(mine) => {
                if !mine {
                    tracing::warn!(id = %row.id, attempt = row.attempt, "a prediction had ended before");
                }
                app.ended(&row);
                live.end(row);
                app.predictions.retire(live);
                return;
            }
            Err(StoreError::Closed) => break,
            Err(e) if attempt < WRITES => {
                tracing::error!(id = %row.id, "a prediction's end could not be written, trying again: {e}");
                tokio::time::sleep(pause).await;
                pause *= 3;
            }
            Err(e) => tracing::error!(id = %row.id, "a prediction's end could not be written: {e}"),
        }
    }
    // On disk it has not ended: the next start runs it again.
    app.predictions.forget(live);
    live.leave();
}

//! A prediction on its way through a lane: put before the lanes, watched while it waits and runs, seen through to its end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::billing::{self, Reserved};
use super::cache::CacheKey;
use super::ending::{failed, finish, leave, measured, not_kept, stopped, succeeded};
use super::engine::record;
use super::live::{Live, Reason};
use super::placing::Placing;
use super::telling::Telling;
use crate::app::App;
use crate::engine::{Call, Code, InputFile, Outcome};
use crate::ids;
use crate::lanes::{Job as LaneJob, Ticket};
use crate::problem::Problem;
use crate::redact::Redactor;
use crate::run::{code, refused};
use crate::shelf::Ready;
use crate::store::ledger::{self, IdempotencyKey};
use crate::store::{Store, now_ms};

/// How long the row of a call whose caller waits for the end may stay unwritten: most such calls are over by then and are
/// written once.
const HOLD: Duration = Duration::from_millis(20);

/// What a prediction needs to run.
pub(super) struct Work {
    pub(super) ready: Arc<Ready>,
    /// Checked, defaults filled in, files taken out.
    pub(super) input: Value,
    pub(super) files: Vec<InputFile>,
    /// What of the input is struck out of what the guest says.
    pub(super) redactor: Redactor,
    /// Where its output is kept, if it may be.
    pub(super) key: Option<CacheKey>,
    /// The caller's name for the request, to be written with the row.
    pub(super) name: Option<IdempotencyKey>,
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
    /// Whether its owner's limit leaves it less time than the version has.
    by_limit: bool,
}

impl Job {
    /// It will not be seen through.
    pub(super) fn give_up(self, app: &App, live: &Arc<Live>) {
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
        redactor,
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
    let own_time = Duration::from_millis(ready.guest.limits().timeout_ms);
    let by_limit = timeout.is_some_and(|limit| limit < own_time);
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
        owner: Arc::clone(owner),
        input,
        files,
        seed: ids::seed(),
        timeout,
        cancel: live.cancel.clone(),
        events: Some(Box::new(move |event| hears.hear(event))),
    };
    let (done, outcome) = oneshot::channel();
    let (on_lane, begins) = (Arc::clone(&ready), Arc::clone(live));
    let (again, store) = (admission == Admission::Again, Arc::clone(&app.store));
    let run: LaneJob = Box::new(move |waited: Duration| {
        if !begins.begin() {
            return;
        }
        if again && !begin_again(&store, &begins) {
            return;
        }
        let outcome = on_lane.call(&store, &begins.key.0, call, redactor);
        let outcome = outcome.unwrap_or_else(|why| on_lane.set_aside(&why));
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
        by_limit,
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
    let mut placing = Placing::new(&begun);
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
                placing.begin(&app, &live);
                telling.changed(&app, &live);
            }
            () = placing.done() => {
                if placing.has_failed() {
                    live.cancel.cancel();
                }
                placing.begin(&app, &live);
            }
            () = telling.due() => telling.tell(&app, &live),
        }
    };
    // Whoever watches from here on waits for the end.
    drop(changes);
    if let Some(key) = &job.key
        && outcome.as_ref().is_none_or(|(outcome, _)| outcome.result.is_err())
    {
        app.predictions.cache.land(key, &live);
    }
    let placer = placing.end(&app, &live).await;
    let mut row = live.row();
    let (reason, _) = live.stopping();
    let in_vain = placer.failed.clone();
    match (outcome, reason) {
        // Neither its caller nor its deadline ended it: the server is stopping, and the next start runs it again.
        (None, None) => return left(&app, &live, job),
        (Some((outcome, _)), None) if is_cancelled(&outcome) && in_vain.is_none() => return left(&app, &live, job),
        (None, Some(reason)) => stopped(&mut row, reason),
        (Some((outcome, waited)), reason) => {
            measured(&app, &mut row, &outcome, waited);
            billing::settle(&app.predictions.spend, job.reserved.take().as_ref(), row.took.cost);
            let queue_us = row.took.queue_us;
            let total_us = queue_us + row.took.total_us;
            match outcome.result {
                Ok(output) => {
                    app.metrics
                        .served(&job.ready.metrics, queue_us, row.took.compute_us, total_us);
                    succeeded(&app, &live, &mut row, output, placer, job.ready.iterator, job.key).await;
                }
                Err(failure) => {
                    let code = code(&failure);
                    app.metrics
                        .failed(&job.ready.metrics, code, queue_us, row.took.compute_us, total_us);
                    match (reason, in_vain) {
                        (Some(reason), _) if failure.code == Code::Cancelled => stopped(&mut row, reason),
                        (None, Some(why)) if failure.code == Code::Cancelled => not_kept(&mut row, &why),
                        _ => failed(&mut row, failure, job.by_limit),
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

pub(super) async fn until(deadline: Option<i64>) {
    match deadline {
        Some(at) => {
            let left = u64::try_from(at - now_ms()).unwrap_or(0);
            tokio::time::sleep_until(Instant::now() + Duration::from_millis(left)).await;
        }
        None => std::future::pending().await,
    }
}

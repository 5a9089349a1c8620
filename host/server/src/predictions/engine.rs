//! Takes a request for a prediction: checked, then answered from the cache, by an identical one that runs, or by a run of its own;
//! on disk before its id is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::Alone;
use super::cache::{self, CacheKey, Kept};
use super::ending::{announce, announcement, failed_before, finish, is_stopping, leave, stopped, take_over};
use super::live::{Live, Reason};
use super::record::{Cached, Prediction, Source, Took, Webhook};
use super::running::{Admission, Work, launch, see_through, until};
use super::status::Status;
use crate::app::App;
use crate::auth::Principal;
use crate::catalog::Version;
use crate::ids;
use crate::problem::Problem;
use crate::redact::Redactor;
use crate::run::{checked, refuse_early};
use crate::store::ledger::{self, IdempotencyKey};
use crate::store::{StoreError, now_ms};

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
    let ready = app.shelf.callable(&ask.version).await?;
    let owner = Arc::clone(ask.principal.owner());
    refuse_early(app, &owner, &ready, ask.fresh)?;
    let mut input = Value::Object(ask.input);
    let mut kept_input = input.clone();
    let redactor = Redactor::take(ready.input.value(), &mut kept_input, ask.secret.as_deref());
    let kept_input: Arc<str> = kept_input.to_string().into();
    let (input, files) = {
        let ready = Arc::clone(&ready);
        let size = kept_input.len();
        let found = checked(app, &owner, &ask.origin, &ready, &mut input, size).await;
        let files = found.inspect_err(|problem| app.metrics.refused(&ready.metrics, problem.code()))?;
        (input, files)
    };
    // Nothing is kept of what is secret.
    let key = (!ask.fresh && redactor.is_empty() && cache::is_deterministic(ready.deterministic, &input))
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
        secret: !redactor.is_empty(),
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
        redactor,
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
pub(super) async fn record(app: &App, live: &Live, name: Option<IdempotencyKey>) -> Result<(), Problem> {
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
    drop(changes);
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

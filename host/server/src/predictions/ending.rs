//! How a prediction ends: what its run took and made becomes its row, is written with what it sets off, and only then shown.

use std::sync::Arc;
use std::time::Duration;

use super::billing;
use super::cache::{CacheKey, Kept};
use super::live::{Live, Reason};
use super::placing::{Placed, Placer};
use super::record::{Events, Prediction, Took};
use super::status::Status;
use crate::app::App;
use crate::engine::{Code, Failure, Outcome, Output};
use crate::http::streams::shown;
use crate::problem::Problem;
use crate::store::ledger::{self, IdempotencyKey};
use crate::store::{StoreError, now_ms};
use crate::webhooks::records::{NewDelivery, enqueue};

/// How often an end is tried to be written before it is left to the next start of the server.
const WRITES: u32 = 6;

/// Makes a kept output a row's. Returns its items if it is an iterator's.
pub(super) async fn take_over(
    app: &App,
    row: &mut Prediction,
    kept: &Kept,
    iterator: bool,
) -> Result<Option<Vec<Arc<str>>>, String> {
    let now = now_ms();
    let placed = Placer::new(row).whole(app, &kept.json, &kept.files, iterator);
    let Placed { json, items } = placed.await?;
    row.status = Status::Succeeded;
    row.output = Some(json.into());
    row.logs.clone_from(&kept.logs);
    row.metrics.clone_from(&kept.metrics);
    row.started_at = Some(now);
    row.completed_at = Some(now);
    Ok(items)
}

/// What a run took, and what that costs.
pub(super) fn measured(app: &App, row: &mut Prediction, outcome: &Outcome, waited: Duration) {
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

/// Ended by a failure; `by_limit` says that its time was what its owner may spend, not the version's own.
pub(super) fn failed(row: &mut Prediction, failure: Failure, by_limit: bool) {
    row.status = Status::Failed;
    row.error = Some(if by_limit && failure.code == Code::Timeout {
        format!("{}: your spend limit leaves no more", failure.message)
    } else {
        failure.message
    });
}

/// Ended because there was no room for a file of its output.
pub(super) fn not_kept(row: &mut Prediction, why: &str) {
    tracing::error!(id = %row.id, why, "an output could not be kept");
    row.status = Status::Failed;
    row.error = Some(format!("the output could not be kept: {why}"));
}

/// Ended well; its output is kept under `key`, if there is one.
pub(super) async fn succeeded(
    app: &App,
    live: &Live,
    row: &mut Prediction,
    output: Output,
    placer: Placer,
    iterator: bool,
    key: Option<CacheKey>,
) {
    match placer.whole(app, &output.json, &output.files, iterator).await {
        Ok(Placed { json, items }) => {
            row.status = Status::Succeeded;
            row.output = Some(json.into());
            live.set_items(items);
        }
        Err(why) => return not_kept(row, &why),
    }
    if let Some(key) = key {
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

/// What a webhook is told of an end, if it wants to be.
pub(super) fn announcement(app: &App, row: &Prediction) -> Option<NewDelivery> {
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
pub(super) fn announce(c: &rusqlite::Connection, told: Option<&NewDelivery>) -> rusqlite::Result<()> {
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
pub(super) async fn finish(app: &App, live: &Arc<Live>, row: Prediction, recorded: bool, name: Option<IdempotencyKey>) {
    let mut pause = Duration::from_millis(50);
    for attempt in 1..=WRITES {
        let (end, name, told) = (row.clone(), name.clone(), announcement(app, &row));
        let waited_for = live.is_watched() || told.is_some();
        let write = move |c: &rusqlite::Connection| {
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
        };
        let written = if waited_for {
            app.store.write(write).await
        } else {
            app.store.write_along(write).await
        };
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

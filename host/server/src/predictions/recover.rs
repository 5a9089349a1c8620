//! After a crash: what was accepted and has not ended is run again, a few times at most.

use std::sync::Arc;

use serde_json::Value;

use super::billing;
use super::cache;
use super::engine::{Admission, Work, finish_now, launch, see_through};
use super::live::Live;
use super::record::Prediction;
use super::status::Status;
use crate::app::App;
use crate::problem::Problem;
use crate::run::checked;
use crate::store::{StoreError, ledger, now_ms};

/// How often a prediction is begun before it is given up: something in it may be what ends the server.
const MAX_ATTEMPTS: u32 = 3;

/// Reads what owners have spent and may spend. Once, before anything runs.
pub(crate) async fn load_spend(app: &App) -> Result<(), StoreError> {
    let now = now_ms();
    let (day, month) = billing::day_and_month(now);
    let (spent, limits) = app
        .store
        .read(move |c| Ok((ledger::spent(c, day, month)?, ledger::limits(c)?)))
        .await?;
    for (owner, day, month) in spent {
        app.predictions.spend.load(&owner.into(), now, day, month);
    }
    for (owner, day, month) in limits {
        let limit = billing::Limit { day, month };
        app.predictions.spend.limit(&owner.into(), now, limit);
    }
    Ok(())
}

/// Runs again what a crash or a stop has left. The folder belongs to this process alone, so every row that has not ended is
/// nobody's.
pub(crate) async fn resume(app: &Arc<App>) -> Result<usize, StoreError> {
    let rows = app.store.read(ledger::unfinished).await?;
    let count = rows.len();
    for mut row in rows {
        row.attempt += 1;
        row.status = Status::Starting;
        row.started_at = None;
        row.logs.clear();
        let taken = row.clone();
        if !app.store.write(move |c| ledger::take_over(c, &taken)).await? {
            continue;
        }
        let live = Live::new(row.clone());
        live.set_recorded();
        app.predictions.put(&live);
        if let Err(why) = again(app, &live, &row).await {
            tracing::warn!(id = %row.id, why, "a prediction cannot be run again");
            row.status = Status::Failed;
            row.error = Some(why);
            finish_now(app, &live, row).await;
        }
    }
    Ok(count)
}

async fn again(app: &Arc<App>, live: &Arc<Live>, row: &Prediction) -> Result<(), String> {
    if row.attempt > MAX_ATTEMPTS {
        return Err(format!(
            "the server ended {MAX_ATTEMPTS} times while it ran; it is not tried again"
        ));
    }
    if row.secret {
        return Err(
            "the server restarted before it ran, and its secret inputs are kept nowhere: send it again".to_owned(),
        );
    }
    let snapshot = app.catalog.now();
    let version = snapshot
        .model(&row.model)
        .and_then(|model| model.resolve(Some(&row.version.to_string())))
        .ok_or("its version is gone")?;
    let told = |problem: Problem| problem.detail().to_owned();
    let ready = app.shelf.ready(version).await.map_err(told)?;
    let mut input: Value = serde_json::from_str(&row.input).map_err(|e| e.to_string())?;
    let size = row.input.len();
    let files = checked(app, &row.owner, &row.origin, &ready, &mut input, size)
        .await
        .map_err(told)?;
    let key = (row.cache as i64 != 0 && cache::is_deterministic(ready.deterministic, &input))
        .then(|| cache::key(&row.owner, row.version, &input, &files))
        .flatten();
    let work = Work {
        ready,
        input,
        files,
        key,
        name: None,
    };
    let job = launch(app, live, work, Admission::Promised).map_err(told)?;
    app.predictions
        .tasks
        .spawn(see_through(Arc::clone(app), Arc::clone(live), job));
    Ok(())
}

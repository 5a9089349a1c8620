//! After a crash: what was accepted and has not ended is run again, a few times at most.

use std::sync::Arc;

use serde_json::Value;

use super::billing;
use super::cache;
use super::ending::{failed_before, finish_now, is_stopping, leave, stopped};
use super::live::Live;
use super::record::Prediction;
use super::running::{Admission, Work, launch, see_through};
use crate::app::App;
use crate::problem::Problem;
use crate::redact::Redactor;
use crate::run::checked;
use crate::store::{StoreError, ledger, now_ms};

/// How often a prediction is begun before it is given up: something in it may be what ends the server. What only waited while the
/// server ended was not begun.
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

/// Takes in what a crash or a stop has left. Before the first request: the folder belongs to this process alone, so every row that
/// has not ended is nobody's yet, and whoever asks for one finds it, can stream it and can stop it.
pub(crate) async fn adopt(app: &App) -> Result<Vec<Arc<Live>>, StoreError> {
    let rows = app.store.read(ledger::unfinished).await?;
    let adopted = rows.into_iter().map(|mut row| {
        row.status = super::status::Status::Starting;
        row.started_at = None;
        row.logs.clear();
        let live = Live::new(row);
        live.set_recorded();
        app.predictions.put(&live);
        live
    });
    Ok(adopted.collect())
}

/// Runs again what was taken in.
pub(crate) async fn resume(app: &Arc<App>, adopted: Vec<Arc<Live>>) {
    for live in adopted {
        let mut row = live.row();
        if let (Some(reason), _) = live.stopping() {
            stopped(&mut row, reason);
            finish_now(app, &live, row).await;
            continue;
        }
        match again(app, &live, &row).await {
            Ok(()) => {}
            Err(Cannot::Now) => leave(app, &live),
            Err(Cannot::Ever(why)) => {
                tracing::warn!(id = %row.id, why, "a prediction cannot be run again");
                failed_before(app, &live, row, why).await;
            }
        }
    }
}

/// Why something is not run again.
enum Cannot {
    /// The server stops; the next start tries.
    Now,
    /// What its caller is told.
    Ever(String),
}

async fn again(app: &Arc<App>, live: &Arc<Live>, row: &Prediction) -> Result<(), Cannot> {
    if row.attempt >= MAX_ATTEMPTS {
        return Err(Cannot::Ever(format!(
            "the server ended {MAX_ATTEMPTS} times while it ran; it is not tried again"
        )));
    }
    if row.secret {
        return Err(Cannot::Ever(
            "the server restarted before it ran, and its secret inputs are kept nowhere: send it again".to_owned(),
        ));
    }
    let snapshot = app.catalog.now();
    let version = snapshot
        .model(&row.model)
        .and_then(|model| model.resolve(Some(&row.version.to_string())))
        .ok_or_else(|| Cannot::Ever("its version is gone".to_owned()))?;
    let told = |problem: Problem| match is_stopping(&problem) {
        true => Cannot::Now,
        false => Cannot::Ever(problem.detail().to_owned()),
    };
    let ready = app.shelf.callable(version).await.map_err(told)?;
    let mut input: Value = serde_json::from_str(&row.input).map_err(|e| Cannot::Ever(e.to_string()))?;
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
        // What had secrets is not run again.
        redactor: Redactor::default(),
        key,
        name: None,
    };
    let job = launch(app, live, work, Admission::Again).map_err(told)?;
    app.predictions
        .tasks
        .spawn(see_through(Arc::clone(app), Arc::clone(live), job));
    Ok(())
}

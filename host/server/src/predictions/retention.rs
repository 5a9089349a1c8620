//! How long predictions are kept: their data for a while, their rows for longer, what they cost for good.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::app::App;
use crate::store::{ledger, now_ms};

/// Rows touched in one transaction, so that others wait shortly.
const BATCH: usize = 500;

/// How long a caller's key names a request, in milliseconds.
const KEYS_MS: i64 = 24 * 3600 * 1000;

/// Writes what was used, forgets what ended a while ago, and clears what is old. Called every second.
pub(crate) async fn sweep(app: &Arc<App>, seconds: u64) {
    app.predictions.expire();
    flush(app).await;
    if !seconds.is_multiple_of(60) {
        return;
    }
    tokens(app).await;
    let now = now_ms();
    let ago = |age: Duration| now.saturating_sub(i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    let (data, rows) = (ago(app.config.keep_data), ago(app.config.keep_predictions));
    loop {
        let swept = app
            .store
            .write(move |c| ledger::sweep(c, data, rows, now - KEYS_MS, BATCH as i64))
            .await;
        match swept {
            Ok(touched) if touched >= BATCH => tokio::task::yield_now().await,
            Ok(_) => break,
            Err(e) => {
                tracing::warn!("old predictions could not be cleared: {e}");
                break;
            }
        }
    }
}

/// Writes what would be lost with the process.
pub(crate) async fn close(app: &App) {
    flush(app).await;
    tokens(app).await;
}

/// Writes when tokens were last used.
async fn tokens(app: &App) {
    let since = now_ms() - 61_000;
    let snapshot = app.catalog.now();
    let used: Vec<_> = snapshot
        .tokens()
        .map(|token| (token, token.last_used_at.load(Ordering::Relaxed)))
        .filter(|(_, at)| *at >= since)
        .map(|(token, at)| (token.id.clone(), at))
        .collect();
    if !used.is_empty()
        && let Err(e) = app.store.used_tokens(used).await
    {
        tracing::warn!("when tokens were last used could not be written: {e}");
    }
}

/// Writes what calls without rows of their own have used.
pub(crate) async fn flush(app: &App) {
    let uses = app.predictions.meter.take();
    if uses.is_empty() {
        return;
    }
    let again = uses.clone();
    let written = app
        .store
        .write(move |c| uses.iter().try_for_each(|used| ledger::count(c, used)))
        .await;
    if let Err(e) = written {
        tracing::warn!("usage could not be written, trying again: {e}");
        for used in again {
            app.predictions.meter.add(used);
        }
    }
}

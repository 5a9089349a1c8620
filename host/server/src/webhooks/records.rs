//! What the database knows of webhooks on their way. Every query of a caller is by owner and id.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::schedule::Verdict;
use crate::store::now_ms;

/// A webhook to be delivered, whatever happens to the server meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct NewDelivery {
    /// Whose prediction it is.
    pub(crate) owner: String,
    /// Which.
    pub(crate) prediction_id: String,
    /// Where to, checked with [`super::Deliveries::check_url`].
    pub(crate) url: String,
    /// Which event, such as `completed`.
    pub(crate) event: &'static str,
    /// The prediction as JSON.
    pub(crate) body: String,
}

impl NewDelivery {
    /// The message's id: the same whenever the same event of the same prediction is told.
    pub(crate) fn id(&self) -> String {
        let digest = Sha256::digest(format!("{} {} {}", self.owner, self.prediction_id, self.event));
        format!("msg_{}", crate::ids::base32(&digest[..16]))
    }
}

/// Puts a webhook into the outbox, within the transaction that makes its event true. Once for each event of a prediction: again
/// changes nothing. Call [`super::Deliveries::finished`] after the commit.
///
/// # Errors
/// What SQLite says.
pub(crate) fn enqueue(c: &Connection, new: &NewDelivery) -> rusqlite::Result<()> {
    let now = now_ms();
    c.prepare_cached(
        "INSERT INTO webhook_deliveries (id, owner, prediction_id, url, target, event, body, state, attempts, next_at, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, 'pending', 0, ?8, ?8) ON CONFLICT (id) DO NOTHING",
    )?
    .execute(params![new.id(), new.owner, new.prediction_id, new.url, target(&new.url), new.event, new.body, now])?;
    Ok(())
}

/// `host:port` of a URL.
pub(super) fn target(url: &str) -> String {
    let url = Url::parse(url).ok();
    let parts = url
        .as_ref()
        .and_then(|url| Some((url.host_str()?, url.port_or_known_default()?)));
    parts.map(|(host, port)| format!("{host}:{port}")).unwrap_or_default()
}

/// A delivery that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) id: String,
    pub(super) owner: String,
    pub(super) target: String,
}

/// Some of what is due: at most `each` to one target of an owner and `owned` of an owner, those that wait longest first, in turns.
/// Deliveries on their way now are among them.
pub(super) fn due(c: &Connection, now: i64, each: usize, owned: usize, limit: usize) -> rusqlite::Result<Vec<Due>> {
    c.prepare_cached(
        "SELECT id, owner, target FROM (
             SELECT *, row_number() OVER (PARTITION BY owner ORDER BY place, next_at, id) AS turn FROM (
                 SELECT id, owner, target, next_at, row_number() OVER (PARTITION BY owner, target ORDER BY next_at, id) AS place
                 FROM webhook_deliveries WHERE state = 'pending' AND next_at <= ?1
             ) WHERE place <= ?2
         ) WHERE turn <= ?3 ORDER BY turn, next_at LIMIT ?4",
    )?
    .query_map(params![now, each as i64, owned as i64, limit as i64], |row| {
        Ok(Due {
            id: row.get(0)?,
            owner: row.get(1)?,
            target: row.get(2)?,
        })
    })?
    .collect()
}

/// When the next one is due that is not due yet.
pub(super) fn next_due(c: &Connection, now: i64) -> rusqlite::Result<Option<i64>> {
    c.prepare_cached("SELECT min(next_at) FROM webhook_deliveries WHERE state = 'pending' AND next_at > ?1")?
        .query_row([now], |row| row.get(0))
}

/// A delivery as it is kept.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// `msg_…`
    pub(crate) id: String,
    /// Whose.
    pub(crate) owner: String,
    /// Of which prediction.
    pub(crate) prediction_id: String,
    /// Where to.
    pub(crate) url: String,
    /// Which event.
    pub(crate) event: String,
    /// `pending`, `delivered`, `dead` or `skipped`.
    pub(crate) state: String,
    /// Attempts so far.
    pub(crate) attempts: u32,
    /// When a pending one is due, in Unix milliseconds, as all times.
    pub(crate) next_at: i64,
    /// What the receiver answered last.
    pub(crate) last_status: Option<u16>,
    /// Why it did not, last.
    pub(crate) last_error: Option<String>,
    /// When the event happened.
    pub(crate) created_at: i64,
    /// When it was delivered or given up.
    pub(crate) finished_at: Option<i64>,
    /// What is sent; empty in lists.
    pub(crate) body: String,
}

const COLUMNS: &str =
    "id, owner, prediction_id, url, event, state, attempts, next_at, last_status, last_error, created_at, finished_at";

fn read(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    Ok(Delivery {
        id: row.get(0)?,
        owner: row.get(1)?,
        prediction_id: row.get(2)?,
        url: row.get(3)?,
        event: row.get(4)?,
        state: row.get(5)?,
        attempts: row.get(6)?,
        next_at: row.get(7)?,
        last_status: row.get(8)?,
        last_error: row.get(9)?,
        created_at: row.get(10)?,
        finished_at: row.get(11)?,
        body: row.get(12)?,
    })
}

/// One delivery, for sending it.
pub(super) fn pending(c: &Connection, id: &str) -> rusqlite::Result<Option<Delivery>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS}, body FROM webhook_deliveries WHERE id = ?1 AND state = 'pending'"
    ))?
    .query_row([id], read)
    .optional()
}

/// One delivery of an owner's.
pub(super) fn get(c: &Connection, owner: &str, id: &str) -> rusqlite::Result<Option<Delivery>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS}, body FROM webhook_deliveries WHERE owner = ?1 AND id = ?2"
    ))?
    .query_row([owner, id], read)
    .optional()
}

/// What a list of deliveries is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    /// Whose.
    pub(crate) owner: String,
    /// Of this prediction only.
    pub(crate) prediction: Option<String>,
    /// In this state only.
    pub(crate) state: Option<String>,
    /// Behind this place in the order.
    pub(crate) before: (i64, String),
    /// So many.
    pub(crate) limit: usize,
}

/// Deliveries, newest first, without their bodies.
pub(super) fn list(c: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Delivery>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS}, '' FROM webhook_deliveries
         WHERE owner = ?1 AND (?2 IS NULL OR prediction_id = ?2) AND (?3 IS NULL OR state = ?3) AND (created_at, id) < (?4, ?5)
         ORDER BY created_at DESC, id DESC LIMIT ?6"
    ))?
    .query_map(
        params![filter.owner, filter.prediction, filter.state, filter.before.0, filter.before.1, filter.limit as i64],
        read,
    )?
    .collect()
}

/// Notes what became of an attempt.
pub(super) fn attempted(
    c: &Connection,
    id: &str,
    verdict: &Verdict,
    status: Option<u16>,
    error: Option<&str>,
    now: i64,
) -> rusqlite::Result<()> {
    let (state, next_at) = match verdict {
        Verdict::Delivered => ("delivered", None),
        Verdict::Dead => ("dead", None),
        Verdict::Skipped => ("skipped", None),
        Verdict::Again(wait) => (
            "pending",
            Some(now.saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX))),
        ),
    };
    let finished = next_at.is_none().then_some(now);
    c.prepare_cached(
        "UPDATE webhook_deliveries SET state = ?2, attempts = attempts + 1, next_at = coalesce(?3, next_at), last_status = ?4,
             last_error = ?5, finished_at = ?6 WHERE id = ?1 AND state = 'pending'",
    )?
    .execute(params![id, state, next_at, status, error, finished])?;
    Ok(())
}

/// Makes a delivery due now, from its first attempt if it had ended; returns whether there is such a one.
pub(super) fn again(c: &Connection, owner: &str, id: &str, now: i64) -> rusqlite::Result<bool> {
    let changed = c
        .prepare_cached(
            "UPDATE webhook_deliveries SET attempts = CASE state WHEN 'pending' THEN attempts ELSE 0 END, state = 'pending',
                 next_at = ?3, finished_at = NULL WHERE owner = ?1 AND id = ?2",
        )?
        .execute(params![owner, id, now])?;
    Ok(changed > 0)
}

/// Forgets deliveries that ended before a time, some at once; returns how many.
pub(super) fn forget(c: &Connection, before: i64, limit: usize) -> rusqlite::Result<usize> {
    c.prepare_cached(
        "DELETE FROM webhook_deliveries WHERE id IN (
             SELECT id FROM webhook_deliveries WHERE state <> 'pending' AND finished_at < ?1 ORDER BY finished_at LIMIT ?2)",
    )?
    .execute(params![before, limit as i64])
}

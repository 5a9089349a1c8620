//! The ledger's queries: predictions, the keys that callers name them by, and what they cost.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use crate::names::VersionId;
use crate::predictions::record::{Cached, Events, Prediction, Source, Took, Webhook};
use crate::predictions::status::Status;

const COLUMNS: &str = "owner, id, token, model, version, deployment, status, source, origin, input, secret, output, error, \
    logs, metrics, created_at, started_at, completed_at, deadline, attempt, webhook, events, cache, queue_us, total_us, \
    compute_us, load_us, billed_ms, cost, removed";

/// A name that a caller gave to a request, so that sending it twice does it once.
#[derive(Clone, Debug)]
pub(crate) struct IdempotencyKey {
    pub(crate) key: String,
    /// sha256 of the request.
    pub(crate) fingerprint: [u8; 32],
}

/// Which predictions a list shows, newest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Filter {
    /// Older than this one of the order of creation.
    pub(crate) before: Option<i64>,
    pub(crate) model: Option<String>,
    pub(crate) version: Option<VersionId>,
    pub(crate) status: Option<Status>,
    pub(crate) source: Option<Source>,
    /// Unix milliseconds.
    pub(crate) created_after: Option<i64>,
    pub(crate) created_before: Option<i64>,
}

/// Writes a new prediction, whether it has ended or not.
pub(crate) fn insert(c: &Connection, row: &Prediction, key: Option<&IdempotencyKey>) -> rusqlite::Result<()> {
    let sql = "INSERT INTO predictions (owner, id, token, model, version, deployment, status, source, origin, input, secret,
        output, error, logs, metrics, created_at, started_at, completed_at, deadline, attempt, webhook, events, cache, queue_us,
        total_us, compute_us, load_us, billed_ms, cost, removed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13,
        ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30)";
    let (webhook, events) = match &row.webhook {
        Some(hook) => (Some(hook.url.as_str()), hook.events.0),
        None => (None, 0),
    };
    let took = row.took;
    c.prepare_cached(sql)?.execute(params![
        row.owner,
        row.id,
        row.token,
        row.model,
        row.version.0,
        row.deployment,
        row.status.number(),
        row.source as i64,
        row.origin,
        row.input,
        row.secret,
        row.output,
        row.error,
        row.logs,
        row.metrics,
        row.created_at,
        row.started_at,
        row.completed_at,
        row.deadline,
        row.attempt,
        webhook,
        events,
        row.cache as i64,
        integer(took.queue_us),
        integer(took.total_us),
        integer(took.compute_us),
        integer(took.load_us),
        integer(took.billed_ms),
        integer(took.cost),
        row.removed,
    ])?;
    if let Some(key) = key {
        let sql = "INSERT INTO idempotency (owner, key, fingerprint, id, created_at) VALUES (?1, ?2, ?3, ?4, ?5)";
        c.prepare_cached(sql)?
            .execute(params![row.owner, key.key, key.fingerprint, row.id, row.created_at])?;
    }
    if row.status.is_terminal() {
        count(c, &Use::of(row))?;
    }
    Ok(())
}

/// Ends a prediction. Whether it was this attempt's to end: a row ends once, whoever comes later changes nothing.
pub(crate) fn finish(c: &Connection, row: &Prediction) -> rusqlite::Result<bool> {
    let sql = "UPDATE predictions SET status = ?4, output = ?5, error = ?6, logs = ?7, metrics = ?8, started_at = ?9,
        completed_at = ?10, cache = ?11, queue_us = ?12, total_us = ?13, compute_us = ?14, load_us = ?15, billed_ms = ?16,
        cost = ?17 WHERE owner = ?1 AND id = ?2 AND attempt = ?3 AND status < 2";
    let took = row.took;
    let changed = c.prepare_cached(sql)?.execute(params![
        row.owner,
        row.id,
        row.attempt,
        row.status.number(),
        row.output,
        row.error,
        row.logs,
        row.metrics,
        row.started_at,
        row.completed_at,
        row.cache as i64,
        integer(took.queue_us),
        integer(took.total_us),
        integer(took.compute_us),
        integer(took.load_us),
        integer(took.billed_ms),
        integer(took.cost),
    ])?;
    if changed == 1 {
        count(c, &Use::of(row))?;
    }
    Ok(changed == 1)
}

/// One prediction of an owner.
pub(crate) fn find(c: &Connection, owner: &str, id: &str) -> rusqlite::Result<Option<Prediction>> {
    let sql = format!("SELECT {COLUMNS} FROM predictions WHERE owner = ?1 AND id = ?2");
    c.prepare_cached(&sql)?.query_row(params![owner, id], read).optional()
}

/// What a caller's key stands for: the request's fingerprint and the prediction's id.
pub(crate) fn find_key(c: &Connection, owner: &str, key: &str) -> rusqlite::Result<Option<([u8; 32], String)>> {
    c.prepare_cached("SELECT fingerprint, id FROM idempotency WHERE owner = ?1 AND key = ?2")?
        .query_row(params![owner, key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

/// A page of an owner's predictions, newest first, each with its place in the order of creation.
pub(crate) fn list(
    c: &Connection,
    owner: &str,
    filter: &Filter,
    limit: usize,
) -> rusqlite::Result<Vec<(i64, Prediction)>> {
    let sql = format!(
        "SELECT {COLUMNS}, sequence FROM predictions WHERE owner = ?1
        AND (?2 IS NULL OR sequence < ?2) AND (?3 IS NULL OR model = ?3) AND (?4 IS NULL OR version = ?4)
        AND (?5 IS NULL OR status = ?5) AND (?6 IS NULL OR source = ?6) AND (?7 IS NULL OR created_at > ?7)
        AND (?8 IS NULL OR created_at < ?8) ORDER BY sequence DESC LIMIT ?9"
    );
    let rows = params![
        owner,
        filter.before,
        filter.model,
        filter.version.map(|id| id.0),
        filter.status.map(Status::number),
        filter.source.map(|source| source as i64),
        filter.created_after,
        filter.created_before,
        i64::try_from(limit).unwrap_or(i64::MAX),
    ];
    let mut query = c.prepare_cached(&sql)?;
    let found = query.query_map(rows, |row| Ok((row.get(30)?, read(row)?)))?;
    found.collect()
}

/// What a crash left: every prediction that has not ended, oldest first.
pub(crate) fn unfinished(c: &Connection) -> rusqlite::Result<Vec<Prediction>> {
    let sql = format!("SELECT {COLUMNS} FROM predictions WHERE status < 2 ORDER BY sequence");
    c.prepare(&sql)?.query_map([], read)?.collect()
}

/// Begins a further attempt of one that a crash left. Whether that was the one before.
pub(crate) fn begin_again(c: &Connection, owner: &str, id: &str, attempt: u32) -> rusqlite::Result<bool> {
    let sql = "UPDATE predictions SET attempt = ?3 WHERE owner = ?1 AND id = ?2 AND attempt = ?3 - 1 AND status < 2";
    Ok(c.prepare_cached(sql)?.execute(params![owner, id, attempt])? == 1)
}

/// Removes input, output and logs of one that has ended. Whether there was one.
pub(crate) fn clear(c: &Connection, owner: &str, id: &str) -> rusqlite::Result<bool> {
    let sql = "UPDATE predictions SET input = '{}', output = NULL, logs = '', removed = 1
        WHERE owner = ?1 AND id = ?2 AND status >= 2";
    Ok(c.prepare_cached(sql)?.execute(params![owner, id])? == 1)
}

/// Removes the data of predictions that ended before `data`, and rows and keys that are older than `rows` and `keys`; some at a
/// time. How many were touched.
pub(crate) fn sweep(c: &Connection, data: i64, rows: i64, keys: i64, limit: i64) -> rusqlite::Result<usize> {
    let cleared = c
        .prepare_cached(
            "UPDATE predictions SET input = '{}', output = NULL, logs = '', removed = 1 WHERE sequence IN
            (SELECT sequence FROM predictions WHERE removed = 0 AND status >= 2 AND completed_at < ?1 LIMIT ?2)",
        )?
        .execute(params![data, limit])?;
    let gone = c
        .prepare_cached(
            "DELETE FROM predictions WHERE sequence IN
            (SELECT sequence FROM predictions WHERE status >= 2 AND created_at < ?1 ORDER BY sequence LIMIT ?2)",
        )?
        .execute(params![rows, limit])?;
    let forgotten = c
        .prepare_cached("DELETE FROM idempotency WHERE created_at < ?1")?
        .execute(params![keys])?;
    Ok(cleared + gone + forgotten)
}

/// What a call adds to what its owner used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    pub(crate) owner: Arc<str>,
    /// Days since 1970-01-01, UTC.
    pub(crate) day: i64,
    pub(crate) model: Arc<str>,
    pub(crate) version: VersionId,
    pub(crate) token: String,
    pub(crate) predictions: u64,
    /// Those of them that the cache answered.
    pub(crate) cached: u64,
    pub(crate) compute_us: u64,
    pub(crate) billed_ms: u64,
    pub(crate) cost: u64,
}

impl Use {
    fn of(row: &Prediction) -> Self {
        Self {
            owner: Arc::clone(&row.owner),
            day: row.completed_at.unwrap_or(row.created_at).div_euclid(86_400_000),
            model: Arc::clone(&row.model),
            version: row.version,
            token: row.token.clone(),
            predictions: 1,
            cached: u64::from(matches!(row.cache, Cached::Hit | Cached::Shared)),
            compute_us: row.took.compute_us,
            billed_ms: row.took.billed_ms,
            cost: row.took.cost,
        }
    }
}

/// Adds to the usage.
pub(crate) fn count(c: &Connection, used: &Use) -> rusqlite::Result<()> {
    let sql = "INSERT INTO usage (owner, day, model, version, token, predictions, cached, compute_us, billed_ms, cost)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (owner, day, model, version, token) DO UPDATE SET
        predictions = predictions + excluded.predictions, cached = cached + excluded.cached,
        compute_us = compute_us + excluded.compute_us, billed_ms = billed_ms + excluded.billed_ms, cost = cost + excluded.cost";
    c.prepare_cached(sql)?.execute(params![
        used.owner,
        used.day,
        used.model,
        used.version.0,
        used.token,
        integer(used.predictions),
        integer(used.cached),
        integer(used.compute_us),
        integer(used.billed_ms),
        integer(used.cost),
    ])?;
    c.prepare_cached("UPDATE models SET runs = runs + ?2 WHERE name = ?1")?
        .execute(params![used.model, integer(used.predictions)])?;
    Ok(())
}

/// What an owner used from one day to another, both included.
pub(crate) fn usage(c: &Connection, owner: &str, from: i64, to: i64) -> rusqlite::Result<Vec<Use>> {
    let sql = "SELECT owner, day, model, version, token, predictions, cached, compute_us, billed_ms, cost FROM usage
        WHERE owner = ?1 AND day BETWEEN ?2 AND ?3 ORDER BY day DESC, model, version, token LIMIT 10000";
    let mut query = c.prepare_cached(sql)?;
    let found = query.query_map(params![owner, from, to], |row| {
        Ok(Use {
            owner: row.get::<_, String>(0)?.into(),
            day: row.get(1)?,
            model: row.get::<_, String>(2)?.into(),
            version: VersionId(row.get(3)?),
            token: row.get(4)?,
            predictions: unsigned(row.get(5)?),
            cached: unsigned(row.get(6)?),
            compute_us: unsigned(row.get(7)?),
            billed_ms: unsigned(row.get(8)?),
            cost: unsigned(row.get(9)?),
        })
    })?;
    found.collect()
}

/// What every owner spent on a day and since the first day of its month.
pub(crate) fn spent(c: &Connection, day: i64, month: i64) -> rusqlite::Result<Vec<(String, u64, u64)>> {
    let sql = "SELECT owner, sum(CASE WHEN day = ?1 THEN cost ELSE 0 END), sum(cost) FROM usage WHERE day >= ?2 GROUP BY owner";
    let mut query = c.prepare(sql)?;
    let found = query.query_map(params![day, month], |row| {
        Ok((row.get(0)?, unsigned(row.get(1)?), unsigned(row.get(2)?)))
    })?;
    found.collect()
}

/// Sets what an owner may spend a day and a month; nothing is no limit.
pub(crate) fn set_limit(
    c: &Connection,
    owner: &str,
    day: Option<u64>,
    month: Option<u64>,
    now: i64,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO spend_limits (owner, day, month, updated_at) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT (owner) DO UPDATE SET day = excluded.day, month = excluded.month, updated_at = excluded.updated_at";
    c.execute(sql, params![owner, day.map(integer), month.map(integer), now])?;
    Ok(())
}

/// An owner, and what it may spend a day and a month.
type SpendLimit = (String, Option<u64>, Option<u64>);

/// What owners may spend.
pub(crate) fn limits(c: &Connection) -> rusqlite::Result<Vec<SpendLimit>> {
    let mut query = c.prepare("SELECT owner, day, month FROM spend_limits")?;
    let found = query.query_map([], |row| {
        let amount = |value: Option<i64>| value.map(unsigned);
        Ok((row.get(0)?, amount(row.get(1)?), amount(row.get(2)?)))
    })?;
    found.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Prediction> {
    let strange = |column: usize, what: &str| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Integer, what.to_owned().into())
    };
    let amount = |column: usize| row.get(column).map(unsigned);
    let events: u8 = row.get(21)?;
    Ok(Prediction {
        owner: row.get::<_, String>(0)?.into(),
        id: row.get::<_, String>(1)?.into(),
        token: row.get(2)?,
        model: row.get::<_, String>(3)?.into(),
        version: VersionId(row.get(4)?),
        deployment: row.get(5)?,
        status: Status::of_number(row.get(6)?).ok_or_else(|| strange(6, "no status has this number"))?,
        source: if row.get::<_, i64>(7)? == 0 {
            Source::Api
        } else {
            Source::Web
        },
        origin: row.get(8)?,
        input: row.get::<_, String>(9)?.into(),
        secret: row.get(10)?,
        output: row.get::<_, Option<String>>(11)?.map(Into::into),
        error: row.get(12)?,
        logs: row.get(13)?,
        metrics: row.get(14)?,
        created_at: row.get(15)?,
        started_at: row.get(16)?,
        completed_at: row.get(17)?,
        deadline: row.get(18)?,
        attempt: row.get(19)?,
        webhook: row.get::<_, Option<String>>(20)?.map(|url| Webhook {
            url,
            events: Events(events),
        }),
        cache: Cached::of_number(row.get(22)?).ok_or_else(|| strange(22, "no state of the cache has this number"))?,
        took: Took {
            queue_us: amount(23)?,
            total_us: amount(24)?,
            compute_us: amount(25)?,
            load_us: amount(26)?,
            billed_ms: amount(27)?,
            cost: amount(28)?,
        },
        removed: row.get(29)?,
    })
}

/// SQLite's integers are signed.
fn integer(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

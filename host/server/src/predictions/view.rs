//! A prediction as clients see it: the object of replies, polls and webhooks.

use serde::Serialize;
use serde_json::value::RawValue;

use super::record::Prediction;
use super::status::Status;
use crate::http::timestamp;
use crate::names::VersionId;

/// Where a prediction that waits stands in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waits {
    /// Predictions that will be served before it.
    pub(crate) position: usize,
    /// When it will likely start, in Unix milliseconds.
    pub(crate) expected_start: i64,
}

#[derive(Serialize)]
struct View<'a> {
    id: &'a str,
    model: &'a str,
    version: VersionId,
    status: &'static str,
    input: &'a RawValue,
    output: Option<&'a RawValue>,
    error: Option<&'a str>,
    logs: &'a str,
    data_removed: bool,
    source: &'static str,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deployment: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_events_filter: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_position: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_start_at: Option<String>,
    cache: &'static str,
    metrics: Metrics<'a>,
    urls: Urls,
}

#[derive(Serialize)]
struct Metrics<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    predict_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_time: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_time: Option<f64>,
    /// Device time, in begun milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    billed_ms: Option<u64>,
    /// In the currency's unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<f64>,
    /// What the guest measured itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Urls {
    get: String,
    cancel: String,
    web: String,
    stream: String,
}

/// The object of a prediction as JSON text. `stream` is the path and query of its stream.
pub(crate) fn object(row: &Prediction, stream: &str, waits: Option<Waits>) -> String {
    let ended = row.status.is_terminal();
    let seconds = |us: u64| us as f64 / 1e6;
    let took = row.took;
    let lived = row.completed_at.map(|at| (at - row.created_at).max(0));
    let get = format!("{}/v1/predictions/{}", row.origin, row.id);
    let view = View {
        id: &row.id,
        model: &row.model,
        version: row.version,
        status: row.status.name(),
        input: raw(&row.input).unwrap_or(RawValue::NULL),
        output: row.output.as_deref().and_then(raw),
        error: row.error.as_deref(),
        logs: &row.logs,
        data_removed: row.removed,
        source: row.source.name(),
        created_at: timestamp(row.created_at),
        started_at: row.started_at.map(timestamp),
        completed_at: row.completed_at.map(timestamp),
        deadline: row.deadline.map(timestamp),
        deployment: row.deployment.as_deref(),
        webhook: row.webhook.as_ref().map(|hook| hook.url.as_str()),
        webhook_events_filter: row.webhook.as_ref().map(|hook| hook.events.names()),
        queue_position: waits.map(|waits| waits.position),
        expected_start_at: waits.map(|waits| timestamp(waits.expected_start)),
        cache: row.cache.name(),
        metrics: Metrics {
            predict_time: ended.then(|| seconds(took.total_us)),
            // Its ends are known to the millisecond, its parts better: the whole is never less than they are.
            total_time: lived
                .filter(|_| ended)
                .map(|ms| f64::max(ms as f64 / 1e3, seconds(took.queue_us.saturating_add(took.total_us)))),
            queue_time: ended.then(|| seconds(took.queue_us)),
            load_time: ended.then(|| seconds(took.load_us)),
            billed_ms: ended.then_some(took.billed_ms),
            cost: ended.then_some(took.cost as f64 / 1e9),
            model: raw(&row.metrics).filter(|_| ended && row.metrics != "{}"),
        },
        urls: Urls {
            cancel: format!("{get}/cancel"),
            web: get.clone(),
            get,
            stream: format!("{}{stream}", row.origin),
        },
    };
    // Strings, numbers and JSON that was parsed before: there is nothing in it that cannot be written.
    serde_json::to_string(&view).unwrap_or_default()
}

/// The object for a caller whose wait is over: clients take every status but `starting` for an end, and what is in this reply of a
/// growing output they have had already: it is not shown to whoever iterates over what the polls bring.
pub(crate) fn still_starting(mut row: Prediction, stream: &str, waits: Option<Waits>) -> String {
    row.status = Status::Starting;
    row.output = None;
    row.error = None;
    row.completed_at = None;
    row.logs.clear();
    object(&row, stream, waits)
}

fn raw(json: &str) -> Option<&RawValue> {
    serde_json::from_str(json).ok()
}

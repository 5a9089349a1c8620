//! A run as a stream of events (`text/event-stream`): `output`, `progress` and `log` as they come, then `done` or `error`.
//!
//! | event | data |
//! |---|---|
//! | `output` | one item of a streamed output, or the whole output of a model that does not stream, as JSON; files as `data:` URIs |
//! | `progress` | `{"fraction":0.5,"message":"…"}` |
//! | `log` | `{"level":"info","message":"…"}` |
//! | `done` | `{"queue_ms":…,"compute_ms":…,"total_ms":…}`; the last event |
//! | `error` | the problem, as the body of a failed run; the last event |

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::reply;
use crate::app::App;
use crate::engine::{Event, OutputFile, files};
use crate::run::{Listener, Reply, Running};

/// Reports of progress that may wait for a slow reader; more are left out, for a newer one follows.
const PROGRESS_WAITING: usize = 16;

/// How often an idle stream shows that it lives, so that proxies keep it open.
const HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(15);

/// Events on their way to the reader. Items, files and logs are bounded by the version's limits on them, progress here: a slow reader
/// costs bounded memory and never holds up a lane.
pub(crate) struct Events {
    queue: mpsc::UnboundedReceiver<Event>,
    waiting: Arc<AtomicUsize>,
}

/// Where a call tells its events, and where they come out.
pub(crate) fn channel() -> (Listener, Events) {
    let (send, queue) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&waiting);
    let listener = move |event: Event| {
        if matches!(event, Event::Progress { .. }) && counted.load(Ordering::Relaxed) >= PROGRESS_WAITING {
            return;
        }
        if matches!(event, Event::Progress { .. }) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
        // If the reader is gone, the call is being cancelled.
        let _ = send.send(event);
    };
    (Box::new(listener), Events { queue, waiting })
}

/// The response. Dropping it cancels the call.
pub(crate) fn stream(app: Arc<App>, running: Running, events: Events, prediction: HeaderValue) -> Response<Body> {
    let version = running.ready().header.clone();
    let iterator = running.ready().iterator;
    let Events { queue, waiting } = events;
    let told = futures::stream::unfold(
        (queue, waiting, Vec::new()),
        |(mut queue, waiting, mut made)| async move {
            let text = loop {
                match tokio::time::timeout(HEARTBEAT, queue.recv()).await {
                    Ok(Some(event)) => {
                        if matches!(event, Event::Progress { .. }) {
                            waiting.fetch_sub(1, Ordering::Relaxed);
                        }
                        if let Some(text) = format(event, &mut made) {
                            break text;
                        }
                    }
                    Ok(None) => return None,
                    Err(_) => break Bytes::from_static(b": waiting\n\n"),
                }
            };
            Some((text, (queue, waiting, made)))
        },
    );
    let end = futures::stream::once(async move {
        match running.finish(&app).await {
            Ok(reply) => last(&reply, iterator),
            Err(problem) => event("error", &problem.body().to_string()),
        }
    });
    // The listener is dropped when the call ends; only then does the end come.
    let body = told.chain(end).map(Ok::<_, std::convert::Infallible>);
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(reply::VERSION, version);
    headers.insert(reply::PREDICTION, prediction);
    response
}

/// What is told of an event. Files are remembered, and travel inside the items that refer to them.
fn format(told: Event, made: &mut Vec<OutputFile>) -> Option<Bytes> {
    Some(match told {
        Event::File(file) => {
            made.push(file);
            return None;
        }
        Event::Item(json) if made.is_empty() => event("output", &json),
        Event::Item(json) => {
            let mut item = serde_json::from_str(&json).unwrap_or_default();
            files::embed(&mut item, made);
            event("output", &item.to_string())
        }
        Event::Progress { fraction, message } => event(
            "progress",
            &json!({"fraction": fraction, "message": message}).to_string(),
        ),
        Event::Log(line) => event(
            "log",
            &json!({"level": line.level, "message": line.message}).to_string(),
        ),
    })
}

/// What was not streamed yet, and the end.
fn last(reply: &Reply, iterator: bool) -> Bytes {
    let mut text = Vec::new();
    let list = if iterator {
        serde_json::from_str(&reply.json).ok()
    } else {
        None
    };
    match list {
        Some(Value::Array(items)) => {
            for item in items.iter().skip(reply.items) {
                text.extend_from_slice(&event("output", &item.to_string()));
            }
        }
        _ => text.extend_from_slice(&event("output", &reply.json)),
    }
    let ms = |us: u64| us as f64 / 1e3;
    let facts =
        json!({"queue_ms": ms(reply.queue_us), "compute_ms": ms(reply.compute_us), "total_ms": ms(reply.total_us)});
    text.extend_from_slice(&event("done", &facts.to_string()));
    text.into()
}

/// One event. Data with line ends (JSON may be spread over lines) becomes several `data` lines.
fn event(name: &str, data: &str) -> Bytes {
    let mut text = String::with_capacity(name.len() + data.len() + 24);
    text.push_str("event: ");
    text.push_str(name);
    for line in data.split(['\n', '\r']) {
        text.push_str("\ndata: ");
        text.push_str(line);
    }
    text.push_str("\n\n");
    text.into()
}

/// Appends an event that a reader may go on from.
pub(crate) fn event_with_id(text: &mut String, name: &str, id: &str, data: &str) {
    text.push_str("event: ");
    text.push_str(name);
    text.push_str("\nid: ");
    text.push_str(id);
    for line in data.split(['\n', '\r']) {
        text.push_str("\ndata: ");
        text.push_str(line);
    }
    text.push_str("\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predictions::record::Cached;

    fn reply(json: &str, items: usize) -> Reply {
        Reply {
            json: json.to_owned(),
            items,
            queue_us: 1000,
            compute_us: 0,
            total_us: 2500,
            cache: Cached::Off,
        }
    }

    #[test]
    fn a_streamed_list_ends_with_the_items_that_were_not_streamed() {
        let text = last(&reply("[1,\n2, 3]", 2), true);
        let done = "event: done\ndata: {\"compute_ms\":0.0,\"queue_ms\":1.0,\"total_ms\":2.5}\n\n";
        assert_eq!(text, format!("event: output\ndata: 3\n\n{done}"));
        let text = last(&reply("[1,2]", 0), false);
        assert_eq!(
            text,
            format!("event: output\ndata: [1,2]\n\n{done}"),
            "a list that is no iterator is one output"
        );
    }

    #[test]
    fn data_with_line_ends_cannot_forge_an_event() {
        assert_eq!(
            event("output", "{\n\n\"a\":\r1}"),
            "event: output\ndata: {\ndata: \ndata: \"a\":\ndata: 1}\n\n"
        );
    }

    #[tokio::test]
    async fn progress_that_nobody_reads_costs_bounded_memory() {
        let (mut tell, mut events) = channel();
        for i in 0..1000 {
            tell(Event::Progress {
                fraction: f64::from(i) / 1000.0,
                message: String::new(),
            });
        }
        drop(tell);
        let mut count = 0;
        while events.queue.recv().await.is_some() {
            count += 1;
        }
        assert_eq!(count, PROGRESS_WAITING);
    }
}

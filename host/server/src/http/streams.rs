//! A prediction as a stream of events, for today's clients: `output`, `logs`, `error` and `done`, each with an id to go on from.
//!
//! The URL is a capability: signed, so that it works without a token. A stream may be left and taken up again with
//! `Last-Event-ID`, while the prediction runs and as long as its output is kept.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use axum::http::{HeaderMap, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::sse::event_with_id;
use crate::app::App;
use crate::keyed::Keyed;
use crate::predictions::live::{Live, News, Position};
use crate::predictions::record::Prediction;
use crate::predictions::status::Status;
use crate::predictions::view::{self, Waits};
use crate::problem::Problem;
use crate::store::ledger;

/// How often an idle stream shows that it lives, so that proxies keep it open.
const HEARTBEAT: Duration = Duration::from_secs(15);

const PURPOSE: &str = "stream";

/// When to try again if too many streams are open, in seconds.
const TRY_AGAIN: u64 = 5;

/// Replies that may take as long as their readers like, streams and downloads, that may be open at once: so many of each owner, and so
/// many in all.
pub(crate) struct Streams {
    all: Arc<Semaphore>,
    each: Keyed,
}

/// A stream's place, given back when dropped.
pub(super) struct Place {
    _of_owner: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Streams {
    /// A quarter of the connections is left for everything else.
    pub(crate) fn new(connections: usize, each: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new((connections - connections / 4).max(1))),
            each: Keyed::new(each),
        }
    }

    pub(super) fn place(&self, owner: &str) -> Result<Place, Problem> {
        let of_owner = self.each.try_acquire(owner).ok_or_else(|| {
            let detail = "as many streams and downloads are open as one owner may have; close some";
            Problem::too_many_streams(detail, TRY_AGAIN)
        })?;
        let of_all = Arc::clone(&self.all).try_acquire_owned().map_err(|_| {
            let detail = "as many streams and downloads are open as this server has room for";
            Problem::too_many_streams(detail, TRY_AGAIN)
        })?;
        Ok(Place {
            _of_owner: of_owner,
            _of_all: of_all,
        })
    }
}

impl Place {
    /// Is held until the reply has been sent, or given up.
    pub(super) fn hold(self, response: Response<Body>) -> Response<Body> {
        response.map(|body| {
            Body::from_stream(body.into_data_stream().inspect(move |_| {
                let _held = &self;
            }))
        })
    }
}

/// The path and query of a prediction's stream.
pub(crate) fn path(app: &App, owner: &str, id: &str) -> String {
    let signature = hex::encode(app.secrets.sign(PURPOSE, &format!("{owner} {id}")));
    format!("/v1/streams/{owner}/{id}?signature={signature}")
}

/// A prediction as JSON text, with the URL of its stream.
pub(crate) fn shown(app: &App, row: &Prediction, waits: Option<Waits>) -> String {
    view::object(row, &path(app, &row.owner, &row.id), waits)
}

/// What makes the URL a capability.
#[derive(Deserialize)]
pub(crate) struct Signed {
    signature: String,
}

/// `GET /v1/streams/{owner}/{id}?signature=…`.
pub(crate) async fn stream(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<Signed>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let missing = || Problem::not_found("this stream");
    let Path((owner, id)) = path.map_err(|_| missing())?;
    let Query(Signed { signature }) = query.map_err(|_| missing())?;
    let signature = hex::decode(signature).map_err(|_| missing())?;
    if !app.secrets.verify(PURPOSE, &format!("{owner} {id}"), &signature) {
        return Err(missing());
    }
    let position = match headers.get("last-event-id") {
        None => Position::default(),
        Some(sent) => sent
            .to_str()
            .ok()
            .and_then(Position::parse)
            .ok_or_else(|| Problem::bad_request("`Last-Event-ID` is not one that this stream gave out"))?,
    };
    let place = app.streams.place(&owner)?;
    let owner: Arc<str> = owner.into();
    let live = match app.predictions.get(&owner, &id) {
        Some(live) => live,
        None => {
            let row = app.store.read(move |c| ledger::find(c, &owner, &id)).await;
            let row = row.map_err(Problem::internal)?.ok_or_else(missing)?;
            ended(&app, row).await
        }
    };
    let mut response = Response::new(Body::from_stream(events(app, live, position)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    Ok(place.hold(response))
}

/// One that only the ledger knows, to be read like one in memory.
async fn ended(app: &App, row: Prediction) -> Arc<Live> {
    let snapshot = app.catalog.now();
    let version = snapshot
        .model(&row.model)
        .and_then(|model| model.resolve(Some(&row.version.to_string())));
    // An iterator's items are events of their own, now as when they came: a reader may have seen some of them.
    let grew = match version {
        Some(version) => app.shelf.ready(version).await.is_ok_and(|ready| ready.iterator),
        None => false,
    };
    let items = match row.output.as_deref().map(serde_json::from_str) {
        Some(Ok(Value::Array(list))) if grew => Some(list.iter().map(|item| item.to_string().into()).collect()),
        _ => row.output.as_ref().map(|output| vec![Arc::clone(output)]),
    };
    let live = Live::new(row);
    live.set_items(items);
    live
}

struct Reader {
    app: Arc<App>,
    live: Arc<Live>,
    changes: watch::Receiver<u64>,
    position: Position,
    done: bool,
}

fn events(
    app: Arc<App>,
    live: Arc<Live>,
    position: Position,
) -> impl futures::Stream<Item = Result<Bytes, std::convert::Infallible>> {
    let changes = live.watch();
    let reader = Reader {
        app,
        live,
        changes,
        position,
        done: false,
    };
    futures::stream::unfold(reader, |mut reader| async move {
        if reader.done {
            return None;
        }
        let mut halt = reader.app.halt.subscribe();
        let text = loop {
            reader.changes.mark_unchanged();
            let before = reader.position;
            let news = reader.live.news(&mut reader.position);
            reader.done = news.end.is_some();
            let text = text(before, &news);
            if !text.is_empty() {
                break text;
            }
            if reader.live.is_left() {
                return None;
            }
            tokio::select! {
                changed = reader.changes.changed() => if changed.is_err() { return None },
                () = tokio::time::sleep(HEARTBEAT) => break ": waiting\n\n".to_owned(),
                _ = halt.wait_for(|halt| *halt) => return None,
            }
        };
        Some((Ok(Bytes::from(text)), reader))
    })
}

/// News as events. The log comes first: it was written before the output that it leads to.
pub(crate) fn text(mut at: Position, news: &News) -> String {
    let mut text = String::new();
    if !news.logs.is_empty() {
        at.logs += news.logs.len();
        // Every line ends with a line end, empty ones too.
        let lines = news.logs.strip_suffix('\n').unwrap_or(&news.logs);
        event_with_id(&mut text, "logs", &at.to_string(), lines);
    }
    for item in &news.items {
        at.items += 1;
        // Text is streamed as it is, everything else as JSON.
        match serde_json::from_str(item) {
            Ok(Value::String(plain)) => event_with_id(&mut text, "output", &at.to_string(), &plain),
            _ => event_with_id(&mut text, "output", &at.to_string(), item),
        }
    }
    if let Some((status, error)) = &news.end {
        let end = match status {
            Status::Canceled => json!({"reason": "canceled"}),
            Status::Failed => json!({"reason": "error"}),
            _ => json!({}),
        };
        if *status == Status::Failed {
            let error = json!({"detail": error.as_deref().unwrap_or("the model failed")});
            event_with_id(&mut text, "error", &at.to_string(), &error.to_string());
        }
        event_with_id(&mut text, "done", &at.to_string(), &end.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_streamed_as_it_is_and_every_event_has_an_id() {
        let news = News {
            items: vec!["\"Once\\nupon\"".into(), "{\"a\":1}".into()],
            logs: "one\n\n\n".to_owned(),
            end: Some((Status::Succeeded, None)),
        };
        let expected = "event: logs\nid: 2:9\ndata: one\ndata: \ndata: \n\n\
            event: output\nid: 3:9\ndata: Once\ndata: upon\n\n\
            event: output\nid: 4:9\ndata: {\"a\":1}\n\n\
            event: done\nid: 4:9\ndata: {}\n\n";
        assert_eq!(text(Position { items: 2, logs: 3 }, &news), expected);
    }

    #[test]
    fn an_end_says_why() {
        let end = |status, error: Option<&str>| {
            text(
                Position::default(),
                &News {
                    end: Some((status, error.map(str::to_owned))),
                    ..News::default()
                },
            )
        };
        assert_eq!(
            end(Status::Failed, Some("no")),
            "event: error\nid: 0:0\ndata: {\"detail\":\"no\"}\n\nevent: done\nid: 0:0\ndata: {\"reason\":\"error\"}\n\n"
        );
        assert_eq!(
            end(Status::Canceled, None),
            "event: done\nid: 0:0\ndata: {\"reason\":\"canceled\"}\n\n"
        );
    }
}

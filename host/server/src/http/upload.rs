//! A file as a form (`multipart/form-data`), in the dialects of today's clients: `content` with a file name and a type; `filename` and
//! `type` as fields; `metadata` as a JSON field, as a JSON file, or as fields `metadata[key]`.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{DefaultBodyLimit, FromRequest as _};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use futures::Stream;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::body::Coming;
use crate::app::App;
use crate::files::disk::Incoming;
use crate::files::{disk_problem, media_type};
use crate::problem::Problem;

/// What a form may have beside the file, in bytes.
pub(super) const BESIDE: u64 = 1 << 20;

/// Bytes that may arrive without the form getting on: heads of parts, and texts that are no file.
const STALL: u64 = 256 << 10;

/// Parts of a form.
const MAX_PARTS: usize = 128;

/// The longest file name, in bytes.
const MAX_NAME: usize = 255;

/// All metadata as text, in bytes.
const MAX_METADATA: usize = 64 << 10;

/// How deep bracketed metadata goes.
const MAX_DEPTH: usize = 8;

/// Pieces of a file that wait for the disk.
const PIECES: usize = 8;

/// A file that arrived whole.
pub(crate) struct Sent {
    pub(crate) name: String,
    pub(crate) content_type: String,
    /// A JSON object as text.
    pub(crate) metadata: String,
    pub(crate) incoming: Incoming,
}

/// What the parts before the end have said.
#[derive(Default)]
struct Draft {
    content: Option<Incoming>,
    part_name: Option<String>,
    part_type: Option<String>,
    name: Option<String>,
    content_type: Option<String>,
    metadata: Map<String, Value>,
}

/// Reads a form, the file to disk as it comes.
///
/// # Errors
/// 415 for something else than a form, 413 for too large a file, 422 for a form without a file or with unusable fields, 408 for too
/// slow a client, 400 for one that left.
pub(crate) async fn read(app: &App, headers: &HeaderMap, sent: Body) -> Result<Sent, Problem> {
    let (paced, pace) = Paced::new(Coming::new(&app.config, sent), app.files.largest());
    let mut request = Request::new(Body::from_stream(paced));
    // The form has limits of its own.
    DefaultBodyLimit::disable().apply(&mut request);
    if let Some(content_type) = headers.get(CONTENT_TYPE) {
        request.headers_mut().insert(CONTENT_TYPE, content_type.clone());
    }
    let mut form = Multipart::from_request(request, &()).await.map_err(|_| not_a_form())?;
    let mut draft = Draft::default();
    let mut parts = 0;
    while let Some(field) = pace.moved(form.next_field().await, app)? {
        parts += 1;
        if parts > MAX_PARTS {
            return Err(invalid(format!("a form has at most {MAX_PARTS} parts")));
        }
        part(app, &pace, &mut draft, field).await?;
    }
    draft.finish()
}

async fn part(app: &App, pace: &Pace, draft: &mut Draft, field: Field<'_>) -> Result<(), Problem> {
    let name = field.name().unwrap_or_default().to_owned();
    match name.as_str() {
        "content" if draft.content.is_some() => return Err(invalid("the form has two parts `content`".to_owned())),
        "content" => {
            draft.part_name = field.file_name().map(str::to_owned);
            draft.part_type = field.content_type().map(str::to_owned);
            draft.content = Some(store(app, pace, field).await?);
        }
        "filename" => draft.name = Some(text(app, pace, field, MAX_NAME).await?),
        "type" => draft.content_type = Some(text(app, pace, field, 128).await?),
        "metadata" => {
            let json = text(app, pace, field, MAX_METADATA).await?;
            if !json.trim().is_empty() {
                let object = serde_json::from_str::<Map<String, Value>>(&json);
                draft
                    .metadata
                    .extend(object.map_err(|e| invalid(format!("`metadata` is not a JSON object: {e}")))?);
            }
        }
        _ => {
            let value = text(app, pace, field, MAX_METADATA).await?;
            if let Some(keys) = brackets(&name) {
                put(&mut draft.metadata, &keys, value)?;
            }
            // What else a client may say is ignored.
        }
    }
    Ok(())
}

/// A part that is no file.
async fn text(app: &App, pace: &Pace, mut field: Field<'_>, limit: usize) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    while let Some(piece) = pace.moved(field.chunk().await, app)? {
        if bytes.len() + piece.len() > limit {
            let name = crate::names::shown(field.name().unwrap_or_default());
            return Err(invalid(format!("the part `{name}` has more than {limit} bytes")));
        }
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8(bytes).map_err(|_| invalid("a part of the form that should be text is not UTF-8".to_owned()))
}

/// Writes the file to disk as it comes; a file that ends early is not kept.
async fn store(app: &App, pace: &Pace, mut field: Field<'_>) -> Result<Incoming, Problem> {
    let limit = app.files.largest();
    let files = app.files.clone();
    let (pieces, mut queue) = mpsc::channel::<Option<Bytes>>(PIECES);
    let writing = tokio::task::spawn_blocking(move || {
        let mut incoming = files.incoming().map_err(|e| disk_problem(&e))?;
        loop {
            match queue.blocking_recv() {
                Some(Some(piece)) => incoming.write(&piece).map_err(|e| disk_problem(&e))?,
                Some(None) => return Ok(incoming),
                None => return Err(Problem::bad_request("the form ended early")),
            }
        }
    });
    let mut size = 0_u64;
    while let Some(piece) = pace.moved(field.chunk().await, app)? {
        size += piece.len() as u64;
        if size > limit {
            return Err(too_large(limit));
        }
        if pieces.send(Some(piece)).await.is_err() {
            // The disk refused; the writer says why.
            break;
        }
    }
    let _ = pieces.send(None).await;
    drop(pieces);
    writing.await.map_err(Problem::internal)?
}

impl Draft {
    fn finish(self) -> Result<Sent, Problem> {
        let Some(incoming) = self.content else {
            return Err(invalid("the form has no part `content` with the file".to_owned()));
        };
        let metadata = Value::Object(self.metadata).to_string();
        if metadata.len() > MAX_METADATA {
            return Err(invalid(format!("`metadata` has more than {MAX_METADATA} bytes")));
        }
        let name = self.name.or(self.part_name).unwrap_or_default();
        let content_type = self.content_type.or(self.part_type).unwrap_or_default();
        Ok(Sent {
            name: file_name(&name)?,
            content_type: media_type(&content_type),
            metadata,
            incoming,
        })
    }
}

/// A file's name without folders and control characters.
fn file_name(sent: &str) -> Result<String, Problem> {
    let last = sent.rsplit(['/', '\\']).next().unwrap_or_default();
    let name: String = last.chars().filter(|c| !c.is_control()).collect();
    if name.len() > MAX_NAME {
        return Err(invalid(format!("a file name has at most {MAX_NAME} bytes")));
    }
    let empty = name.trim().is_empty() || name.chars().all(|c| c == '.');
    Ok(if empty { "file".to_owned() } else { name })
}

/// The keys of `metadata[a][b]`.
fn brackets(name: &str) -> Option<Vec<&str>> {
    let inner = name.strip_prefix("metadata[")?.strip_suffix(']')?;
    Some(inner.split("][").collect())
}

/// Puts a value where its keys lead; an empty last key adds to a list.
fn put(object: &mut Map<String, Value>, keys: &[&str], value: String) -> Result<(), Problem> {
    let clash = || invalid("fields `metadata[…]` contradict each other".to_owned());
    let (last, path) = keys.split_last().ok_or_else(clash)?;
    let (list, (last, path)) = match path.split_last() {
        Some((name, above)) if last.is_empty() => (true, (name, above)),
        _ => (false, (last, path)),
    };
    if path.len() > MAX_DEPTH {
        return Err(invalid(format!("fields `metadata[…]` go {MAX_DEPTH} deep at most")));
    }
    let mut at = object;
    for key in path {
        let next = at.entry(*key).or_insert_with(|| Value::Object(Map::new()));
        at = next.as_object_mut().ok_or_else(clash)?;
    }
    if list {
        let items = at.entry(*last).or_insert_with(|| Value::Array(Vec::new()));
        items.as_array_mut().ok_or_else(clash)?.push(value.into());
    } else {
        at.insert((*last).to_owned(), value.into());
    }
    Ok(())
}

/// 413, in the words of today's API.
pub(super) fn too_large(limit: u64) -> Problem {
    let size = if limit >= 1 << 20 {
        format!("{}MB", limit >> 20)
    } else {
        format!("{limit} bytes")
    };
    let detail = format!("Files must be less than {size} in size");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "File too large", "too-large", detail).with("limit_bytes", limit.into())
}

fn invalid(detail: String) -> Problem {
    Problem::unprocessable("invalid-upload", detail)
}

fn not_a_form() -> Problem {
    let detail = "send the file as a form: `content-type: multipart/form-data` with a boundary, and the file as its part `content`";
    Problem::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "Unsupported media type",
        "unsupported-media-type",
        detail,
    )
}

/// A body that hands over one piece at a time, so that whoever takes it apart never holds much more than that, and that ends when
/// it is too slow, too long, or does not get on.
struct Paced {
    body: Pin<Box<dyn Stream<Item = Result<Bytes, Problem>> + Send>>,
    rested: bool,
    left: u64,
    /// The largest file.
    largest: u64,
    pace: Pace,
}

/// What the reader of a form and its body share.
#[derive(Clone, Default)]
struct Pace {
    /// Bytes that came since the form last got on.
    stalled: Arc<AtomicU64>,
    /// Why the body ended.
    refused: Arc<Mutex<Option<Problem>>>,
}

impl Pace {
    /// Notes that the form got on, or finds the true cause of its end.
    fn moved<T>(&self, step: Result<T, MultipartError>, app: &App) -> Result<T, Problem> {
        self.stalled.store(0, Ordering::Relaxed);
        step.map_err(|e| {
            let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner).take();
            refused.unwrap_or_else(|| match e.status() {
                StatusCode::PAYLOAD_TOO_LARGE => too_large(app.files.largest()),
                _ => Problem::bad_request(format!(
                    "the form could not be read: {}",
                    crate::names::shown(&e.body_text())
                )),
            })
        })
    }
}

impl Paced {
    fn new(body: Coming, largest: u64) -> (Self, Pace) {
        let pieces = futures::stream::unfold(body, move |mut body| async move {
            match body.next().await {
                Ok(Some(piece)) => Some((Ok(piece), body)),
                Ok(None) => None,
                Err(problem) => Some((Err(problem), body)),
            }
        });
        let pace = Pace::default();
        let paced = Self {
            body: Box::pin(pieces),
            rested: true,
            left: largest.saturating_add(BESIDE),
            largest,
            pace: pace.clone(),
        };
        (paced, pace)
    }

    fn check(&mut self, piece: Result<Bytes, Problem>) -> Result<Bytes, Problem> {
        let piece = piece?;
        let size = piece.len() as u64;
        self.left = self.left.checked_sub(size).ok_or_else(|| too_large(self.largest))?;
        if self.pace.stalled.fetch_add(size, Ordering::Relaxed) > STALL {
            return Err(invalid("a part of the form has too long a head".to_owned()));
        }
        Ok(piece)
    }
}

impl Stream for Paced {
    type Item = Result<Bytes, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.rested {
            self.rested = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Poll::Ready(next) = self.body.as_mut().poll_next(context) else {
            return Poll::Pending;
        };
        self.rested = false;
        Poll::Ready(next.map(|piece| {
            self.check(piece).map_err(|problem| {
                *self.pace.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(problem);
                std::io::Error::other("refused")
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn bracketed_metadata_becomes_an_object() {
        let mut object = Map::new();
        for (name, value) in [
            ("metadata[a]", "1"),
            ("metadata[b][c]", "2"),
            ("metadata[b][d][e]", "3"),
            ("metadata[l][]", "4"),
            ("metadata[l][]", "5"),
            ("metadata[]", "6"),
        ] {
            put(&mut object, &brackets(name).unwrap(), value.to_owned()).unwrap();
        }
        let expected = json!({"a": "1", "b": {"c": "2", "d": {"e": "3"}}, "l": ["4", "5"], "": "6"});
        assert_eq!(Value::Object(object.clone()), expected);
        for bad in [
            "metadata[a][b]",
            "metadata[a][]",
            &format!("metadata{}", "[x]".repeat(20)),
        ] {
            assert!(
                put(&mut object, &brackets(bad).unwrap(), String::new()).is_err(),
                "{bad}"
            );
        }
        assert!(brackets("metadata").is_none() && brackets("other[a]").is_none());
    }

    #[test]
    fn a_file_name_is_only_a_name() {
        for (sent, kept) in [
            ("a.png", "a.png"),
            ("/etc/passwd", "passwd"),
            ("C:\\x\\y.txt", "y.txt"),
            ("../..", "file"),
            ("", "file"),
            ("a\r\nb\0.txt", "ab.txt"),
            ("ü mlaut.wav", "ü mlaut.wav"),
        ] {
            assert_eq!(file_name(sent).unwrap(), kept);
        }
        assert!(file_name(&"x".repeat(256)).is_err());
    }
}

//! Request bodies: read with a limit on size, on time, and on the memory that all of them take together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::config::Config;
use crate::problem::Problem;
use crate::run::invalid_json;

/// What a byte of JSON may take when it is parsed, in bytes of memory.
const PARSED_FACTOR: u64 = 8;

/// Memory for bodies, counted.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    used: Arc<AtomicU64>,
    limit: u64,
}

/// A part of the memory, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Reserved {
    used: Arc<AtomicU64>,
    limit: u64,
    bytes: u64,
}

impl Memory {
    /// At most `limit` bytes together.
    pub(crate) fn new(limit: u64) -> Self {
        Self {
            used: Arc::default(),
            limit,
        }
    }

    /// A part of it, still empty.
    pub(crate) fn reserve(&self) -> Reserved {
        Reserved {
            used: Arc::clone(&self.used),
            limit: self.limit,
            bytes: 0,
        }
    }
}

impl Reserved {
    /// Takes more, or refuses.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), Problem> {
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.limit {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Problem::busy(
                "the requests being read take all the memory there is for them",
                1,
            ));
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The length that the client announced, if it did.
pub(crate) fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads a JSON body whole.
///
/// # Errors
/// 415 for another content type, 413 for too many bytes, 408 for too slow a client, 503 when memory is short.
pub(crate) async fn read(app: &App, headers: &HeaderMap, body: Body) -> Result<(Bytes, Reserved), Problem> {
    check_type(headers)?;
    let limit = app.config.max_body_bytes;
    let announced = announced(headers);
    if announced.is_some_and(|length| length > limit) {
        return Err(Problem::too_large(limit));
    }
    let mut reserved = app.memory.reserve();
    let timeout = app.config.read_timeout;
    match tokio::time::timeout(timeout, collect(body, limit, announced, &mut reserved)).await {
        Ok(bytes) => Ok((bytes?, reserved)),
        Err(_) => Err(Problem::slow_body()),
    }
}

async fn collect(
    mut body: Body,
    limit: u64,
    announced: Option<u64>,
    reserved: &mut Reserved,
) -> Result<Bytes, Problem> {
    if let Some(length) = announced {
        reserved.grow(length.saturating_mul(PARSED_FACTOR))?;
    }
    let mut first = Bytes::new();
    let mut rest: Option<BytesMut> = None;
    while let Some(piece) = next(&mut body).await? {
        let so_far = (first.len() + rest.as_ref().map_or(0, BytesMut::len)) as u64;
        if so_far + piece.len() as u64 > limit {
            return Err(Problem::too_large(limit));
        }
        if announced.is_none() {
            reserved.grow((piece.len() as u64).saturating_mul(PARSED_FACTOR))?;
        }
        if let Some(rest) = &mut rest {
            rest.extend_from_slice(&piece);
        } else if first.is_empty() {
            // Most bodies arrive in one piece, which is then not copied.
            first = piece;
        } else {
            let capacity = announced.unwrap_or(so_far * 2).min(limit);
            let mut whole = BytesMut::with_capacity(usize::try_from(capacity).unwrap_or(0));
            whole.extend_from_slice(&first);
            whole.extend_from_slice(&piece);
            first = Bytes::new();
            rest = Some(whole);
        }
    }
    Ok(rest.map_or(first, BytesMut::freeze))
}

/// The next piece of a body, without a limit on time.
async fn next(body: &mut Body) -> Result<Option<Bytes>, Problem> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| Problem::bad_request(format!("the body could not be read: {e}")))?;
        if let Ok(data) = frame.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

/// How slowly large bodies may come and go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slowest {
    /// The longest that nothing comes.
    pause: Duration,
    /// Bytes a second.
    rate: u64,
}

impl Slowest {
    /// As the settings say.
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            pause: config.read_timeout,
            rate: config.slowest.max(1),
        }
    }

    /// How long so many bytes may be on their way.
    pub(crate) fn time(self, bytes: u64) -> Duration {
        (self.pause * 2).saturating_add(Duration::from_secs(bytes / self.rate))
    }
}

/// A large body, piece by piece.
pub(crate) struct Coming {
    slowest: Slowest,
    body: Body,
    started: Instant,
    bytes: u64,
}

impl Coming {
    /// One that begins to come.
    pub(crate) fn new(config: &Config, body: Body) -> Self {
        Self {
            slowest: Slowest::of(config),
            body,
            started: Instant::now(),
            bytes: 0,
        }
    }

    /// The next piece.
    ///
    /// # Errors
    /// 408 for too slow a client, 400 for one that left.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let due = self.slowest.time(self.bytes).saturating_sub(self.started.elapsed());
        let piece = tokio::time::timeout(due.min(self.slowest.pause), next(&mut self.body)).await;
        let piece = piece.map_err(|_| Problem::slow_body())??;
        self.bytes += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Ok(piece)
    }
}

/// Reads and parses a JSON body. What the client got wrong is told in its words: line, column, unknown fields.
pub(crate) async fn parse<T: DeserializeOwned>(app: &App, headers: &HeaderMap, body: Body) -> Result<T, Problem> {
    let (bytes, _reserved) = read(app, headers, body).await?;
    let wrong = |e: serde_json::Error| match e.classify() {
        serde_json::error::Category::Data => Problem::unprocessable("invalid-request", e.to_string()),
        _ => invalid_json(&e),
    };
    // What is read by names could be read from a list by places, which nobody means.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).map_err(wrong)?;
        return Err(Problem::unprocessable(
            "invalid-request",
            "the body must be a JSON object",
        ));
    }
    serde_json::from_slice(&bytes).map_err(wrong)
}

/// JSON by any of its names; no content type at all counts as JSON.
fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(sent) = headers.get(CONTENT_TYPE) else {
        return Ok(());
    };
    let sent = sent.to_str().unwrap_or("something that is not text");
    let essence = sent.split(';').next().unwrap_or_default().trim();
    let is_json = essence.eq_ignore_ascii_case("application/json")
        || (essence.len() > 5
            && essence.is_char_boundary(essence.len() - 5)
            && essence[essence.len() - 5..].eq_ignore_ascii_case("+json"));
    if is_json { Ok(()) } else { Err(Problem::not_json(sent)) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn json_goes_by_several_names_and_forms_do_not() {
        let check = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(text));
            check_type(&headers).is_ok()
        };
        for good in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/ld+json",
        ] {
            assert!(check(good), "{good}");
        }
        for bad in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
            "",
            "json",
        ] {
            assert!(!check(bad), "{bad}");
        }
        assert!(check_type(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn memory_is_refused_past_its_limit_and_comes_back() {
        let memory = Memory::new(100);
        let mut a = memory.reserve();
        a.grow(60).unwrap();
        let mut b = memory.reserve();
        assert_eq!(b.grow(50).unwrap_err().body()["status"], 503);
        b.grow(40).unwrap();
        drop(a);
        b.grow(60).unwrap();
        drop(b);
        assert_eq!(memory.used.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_body_in_pieces_is_put_together_up_to_its_limit() {
        let pieces = |n: usize| {
            Body::from_stream(futures::stream::iter(
                (0..n).map(|_| Ok::<_, std::io::Error>("0123456789")),
            ))
        };
        let memory = Memory::new(1 << 20);
        let whole = collect(pieces(5), 50, None, &mut memory.reserve()).await.unwrap();
        assert_eq!(whole.len(), 50);
        let problem = collect(pieces(6), 50, None, &mut memory.reserve()).await.unwrap_err();
        assert_eq!(problem.body()["status"], 413);
        let problem = collect(pieces(60), 1 << 20, None, &mut Memory::new(1000).reserve())
            .await
            .unwrap_err();
        assert_eq!(problem.body()["status"], 503);
    }
}

//! A file's bytes over HTTP: whole or a range of them, harmless in a browser.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

use crate::files::{File, Files};
use crate::problem::Problem;

/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// Which bytes a request wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// From the first to the last of these.
    Part(u64, u64),
    /// None that there are.
    Outside,
}

/// The response for a file. The caller has checked that the client may have it.
pub(super) async fn send(files: &Files, file: &File, headers: &HeaderMap) -> Result<Response<Body>, Problem> {
    let etag = format!("\"{}\"", hex::encode(file.sums.sha256));
    let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let mut response = Response::new(Body::empty());
    describe(response.headers_mut(), file, &etag);
    if text(&IF_NONE_MATCH).is_some_and(|tags| matches(tags, &etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    let size = file.sums.size;
    let range = text(&RANGE).filter(|_| text(&IF_RANGE).is_none_or(|tag| tag.trim() == etag));
    let (status, first, length) = match wanted(range, size) {
        Wanted::All => (StatusCode::OK, 0, size),
        Wanted::Part(first, last) => {
            insert(
                response.headers_mut(),
                CONTENT_RANGE,
                format!("bytes {first}-{last}/{size}"),
            );
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        Wanted::Outside => {
            insert(response.headers_mut(), CONTENT_RANGE, format!("bytes */{size}"));
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
            return Ok(response);
        }
    };
    let mut bytes = files.bytes(&file.id).await?;
    if first > 0 {
        bytes
            .seek(std::io::SeekFrom::Start(first))
            .await
            .map_err(Problem::internal)?;
    }
    *response.status_mut() = status;
    insert(response.headers_mut(), CONTENT_LENGTH, length.to_string());
    *response.body_mut() = Body::from_stream(ReaderStream::with_capacity(bytes.take(length), PIECE));
    Ok(response)
}

/// What is said of every file. Bytes that a caller sent, shown by a browser as a page of this server, could act for whoever looks at
/// them: so they are never shown as a page, never guessed at, and could run nothing.
fn describe(headers: &mut HeaderMap, file: &File, etag: &str) {
    insert(headers, CONTENT_TYPE, file.content_type.clone());
    insert(headers, CONTENT_DISPOSITION, disposition(&file.name));
    insert(headers, ETAG, etag.to_owned());
    for (name, value) in [
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; sandbox"),
        (ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (ACCEPT_RANGES, "bytes"),
        (CACHE_CONTROL, "private, max-age=3600"),
        (HeaderName::from_static("cross-origin-resource-policy"), "cross-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    let value = HeaderValue::try_from(value);
    headers.insert(
        name,
        value.unwrap_or(HeaderValue::from_static("application/octet-stream")),
    );
}

/// `attachment`, with the name in both ways that browsers read it.
fn disposition(name: &str) -> String {
    use std::fmt::Write as _;
    let legal = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '%') || c == ' ';
    let plain: String = name.chars().map(|c| if legal(c) { c } else { '_' }).collect();
    let mut text = format!("attachment; filename=\"{plain}\"");
    if plain != name {
        text.push_str("; filename*=UTF-8''");
        for byte in name.bytes() {
            if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
                text.push(char::from(byte));
            } else {
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
    text
}

fn matches(tags: &str, etag: &str) -> bool {
    tags.split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.trim_start_matches("W/") == etag)
}

/// Reads `Range`. One range is served; several, other units and nonsense get the whole file, as RFC 9110 allows.
fn wanted(range: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) = range.and_then(|r| r.trim().strip_prefix("bytes=")?.split_once('-')) else {
        return Wanted::All;
    };
    let number = |text: &str| {
        text.trim()
            .parse::<u64>()
            .ok()
            .filter(|_| text.trim().bytes().all(|b| b.is_ascii_digit()))
    };
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            None => Wanted::All,
            Some(0) => Wanted::Outside,
            Some(_) if size == 0 => Wanted::Outside,
            Some(n) => Wanted::Part(size.saturating_sub(n), size - 1),
        },
        (first, last) => match (number(first), number(last)) {
            (None, _) => Wanted::All,
            (Some(_), None) if !last.is_empty() => Wanted::All,
            (Some(first), Some(last)) if last < first => Wanted::All,
            (Some(first), _) if first >= size => Wanted::Outside,
            (Some(first), last) => Wanted::Part(first, last.unwrap_or(u64::MAX).min(size - 1)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        for (range, size, expected) in [
            (None, 10, Wanted::All),
            (Some("bytes=0-0"), 10, Wanted::Part(0, 0)),
            (Some("bytes=2-5"), 10, Wanted::Part(2, 5)),
            (Some("bytes=2-"), 10, Wanted::Part(2, 9)),
            (Some("bytes=2-99"), 10, Wanted::Part(2, 9)),
            (Some("bytes=-3"), 10, Wanted::Part(7, 9)),
            (Some("bytes=-99"), 10, Wanted::Part(0, 9)),
            (Some("bytes=-0"), 10, Wanted::Outside),
            (Some("bytes=10-"), 10, Wanted::Outside),
            (Some("bytes=0-"), 0, Wanted::Outside),
            (Some("bytes=-1"), 0, Wanted::Outside),
            (Some("bytes=5-2"), 10, Wanted::All),
            (Some("bytes=0-1,4-5"), 10, Wanted::All),
            (Some("bytes=+1-2"), 10, Wanted::All),
            (Some("bytes=a-b"), 10, Wanted::All),
            (Some("bytes=-"), 10, Wanted::All),
            (Some("lines=1-2"), 10, Wanted::All),
            (Some("bytes=99999999999999999999-"), 10, Wanted::All),
        ] {
            assert_eq!(wanted(range, size), expected, "{range:?} of {size}");
        }
    }

    #[test]
    fn a_files_name_cannot_break_its_header() {
        assert_eq!(disposition("a b.png"), "attachment; filename=\"a b.png\"");
        assert_eq!(
            disposition("a\"\r\n\\.png"),
            "attachment; filename=\"a____.png\"; filename*=UTF-8''a%22%0D%0A%5C.png"
        );
        assert_eq!(disposition("ü"), "attachment; filename=\"_\"; filename*=UTF-8''%C3%BC");
    }

    proptest! {
        #[test]
        fn a_range_lies_within_the_file_whatever_is_asked_for(range in ".{0,20}|bytes=[0-9]{0,20}-[0-9]{0,20}", size: u64) {
            if let Wanted::Part(first, last) = wanted(Some(&range), size) {
                prop_assert!(first <= last && last < size);
            }
        }

        #[test]
        fn any_name_makes_a_header(name in ".*") {
            prop_assert!(HeaderValue::try_from(disposition(&name)).is_ok());
        }
    }
}

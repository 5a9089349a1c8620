//! The reply of a run: its output as it is, the facts about it in headers.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, Response};

use crate::run::Reply;

/// The version that served the call.
pub(crate) const VERSION: HeaderName = HeaderName::from_static("x-maquette-version");
/// The call's id.
pub(crate) const PREDICTION: HeaderName = HeaderName::from_static("x-maquette-prediction");
/// What the cache of identical inputs had to do with it.
pub(crate) const CACHE: HeaderName = HeaderName::from_static("x-maquette-cache");
const QUEUE_MS: HeaderName = HeaderName::from_static("x-maquette-queue-ms");
const COMPUTE_MS: HeaderName = HeaderName::from_static("x-maquette-compute-ms");
const TOTAL_MS: HeaderName = HeaderName::from_static("x-maquette-total-ms");

/// The whole reply.
pub(crate) fn whole(reply: Reply, version: HeaderValue, prediction: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.reserve(8);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(VERSION, version);
    headers.insert(PREDICTION, prediction);
    headers.insert(CACHE, HeaderValue::from_static(reply.cache.name()));
    times(headers, &reply);
    *response.body_mut() = Body::from(reply.json);
    response
}

fn times(headers: &mut HeaderMap, reply: &Reply) {
    for (name, us) in [
        (QUEUE_MS, reply.queue_us),
        (COMPUTE_MS, reply.compute_us),
        (TOTAL_MS, reply.total_us),
    ] {
        headers.insert(name, milliseconds(us));
    }
}

/// Microseconds as milliseconds with three decimals.
fn milliseconds(us: u64) -> HeaderValue {
    let mut text = [b'0'; 24];
    let mut at = text.len();
    let mut left = us;
    while left > 0 || at > text.len() - 5 {
        at -= 1;
        if at == text.len() - 4 {
            text[at] = b'.';
            continue;
        }
        text[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    HeaderValue::from_bytes(&text[at..]).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_with_three_decimals() {
        for (us, text) in [
            (0, "0.000"),
            (7, "0.007"),
            (999, "0.999"),
            (1000, "1.000"),
            (12_345, "12.345"),
            (60_000_000, "60000.000"),
        ] {
            assert_eq!(milliseconds(us), text);
        }
        assert_eq!(milliseconds(u64::MAX), "18446744073709551.615");
    }
}

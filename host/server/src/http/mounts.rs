//! Where the API is reached. Clients' base URLs differ: with `/v1`, without, and with one more; all mean the same.
//!
//! The non-standard method `QUERY` becomes one that the router knows, and pages of other origins may call.

use axum::body::Body;
use axum::http::header::{HeaderMap, HeaderName, HeaderValue};
use axum::http::uri::PathAndQuery;
use axum::http::{Method, Request, Response, StatusCode, Uri};

/// First segments of the API's paths, beneath `/v1`.
const SEGMENTS: &[&str] = &[
    "account",
    "blobs",
    "collections",
    "deployments",
    "files",
    "hardware",
    "models",
    "predictions",
    "publish",
    "search",
    "spend-limits",
    "streams",
    "tokens",
    "trainings",
    "usage",
    "webhooks",
];

/// What stands in for `QUERY` inside: no handler of ours answers `OPTIONS`, which is answered before the router.
const QUERY_INSIDE: Method = Method::OPTIONS;

/// The path as the router knows it, if it is another one.
fn path(sent: &str) -> Option<String> {
    if let Some(rest) = sent.strip_prefix("/v1/v1/") {
        return Some(format!("/v1/{rest}"));
    }
    let first = sent.strip_prefix('/')?.split('/').next()?;
    SEGMENTS.contains(&first).then(|| format!("/v1{sent}"))
}

/// Makes a request what the router knows.
pub(super) fn settle(request: &mut Request<Body>) {
    if request.method().as_str() == "QUERY" {
        *request.method_mut() = QUERY_INSIDE;
    }
    let Some(path) = path(request.uri().path()) else { return };
    let text = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    if let Ok(path) = text.parse::<PathAndQuery>() {
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(path);
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

/// The answer to a page that asks what it may do: everything that a token allows.
pub(super) fn preflight(request: &Request<Body>) -> Option<Response<Body>> {
    if request.method() != Method::OPTIONS {
        return None;
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let allow = |headers: &mut HeaderMap, name: &'static str, value: &'static str| {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    };
    allow(
        headers,
        "access-control-allow-methods",
        "GET, POST, PUT, PATCH, DELETE, QUERY",
    );
    allow(
        headers,
        "access-control-allow-headers",
        "authorization, content-type, prefer, cancel-after, idempotency-key, last-event-id, x-maquette-cache, x-request-id",
    );
    allow(headers, "access-control-max-age", "86400");
    Some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_base_url_leads_to_the_same_path() {
        for (sent, known) in [
            ("/v1/models/o/n", None),
            ("/v1/v1/models/o/n", Some("/v1/models/o/n")),
            ("/models/o/n", Some("/v1/models/o/n")),
            ("/predictions", Some("/v1/predictions")),
            ("/", None),
            ("", None),
            ("/healthz", None),
            ("/openapi.json", None),
            ("/v1/v1", None),
            ("/v1/v1/v1/models", Some("/v1/v1/models")),
            ("//models", None),
        ] {
            assert_eq!(path(sent).as_deref(), known, "{sent}");
        }
    }
}

//! Errors as callers see them: `application/problem+json` (RFC 9457) with a status, a sentence, and a code for programs.

use std::borrow::Cow;

use axum::body::Body;
use axum::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Map, Value, json};

use crate::http::timestamp;
use crate::names::VersionId;
use crate::quarantine::Quarantine;
use crate::schema::FieldError;

/// How many offending fields a body lists; more are counted.
pub(crate) const MAX_LISTED_FIELDS: usize = 1000;

/// A refused or failed request.
#[derive(Clone, Debug)]
pub(crate) struct Problem(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    status: StatusCode,
    title: &'static str,
    /// A stable word for programs, such as `invalid-input`.
    code: &'static str,
    detail: Cow<'static, str>,
    /// Further members of the body.
    extra: Map<String, Value>,
    retry_after_s: Option<u64>,
    allow: Option<&'static str>,
}

impl Problem {
    /// Any problem. `code` is a stable word for programs; `detail` says what failed and what to do.
    pub(crate) fn new(
        status: StatusCode,
        title: &'static str,
        code: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        let inner = Inner {
            status,
            title,
            code,
            detail: detail.into(),
            extra: Map::new(),
            retry_after_s: None,
            allow: None,
        };
        Self(Box::new(inner))
    }

    /// 400: the request is not what this path takes.
    pub(crate) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad request", "invalid-request", detail)
    }

    /// 401, in the words that today's clients look for.
    pub(crate) fn unauthenticated() -> Self {
        let detail = "You did not pass a valid authentication token";
        Self::new(StatusCode::UNAUTHORIZED, "Unauthenticated", "unauthenticated", detail)
    }

    /// 403: a valid token that may not do this.
    pub(crate) fn forbidden(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Forbidden", "forbidden", detail)
    }

    /// 404. The same for what does not exist and what is not the caller's to know of.
    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "Not found",
            "not-found",
            format!("{what} was not found"),
        )
    }

    /// 405, with the methods that there are.
    pub(crate) fn method_not_allowed(allow: Option<&'static str>) -> Self {
        let mut problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "Method not allowed",
            "method-not-allowed",
            "this path does not take this method",
        );
        problem.0.allow = allow;
        problem
    }

    /// 408: the client sends too slowly.
    pub(crate) fn slow_body() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "Request timeout",
            "slow-body",
            "the request body did not arrive in time; send it faster or in smaller pieces",
        )
    }

    /// 409: what is there is in the way.
    pub(crate) fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "Conflict", "conflict", detail)
    }

    /// 422: no version that the caller may use has this name.
    pub(crate) fn invalid_version() -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid version or not permitted",
            "invalid-version",
            "The specified version does not exist (or perhaps you don't have permission to use it?)",
        )
    }

    /// 413: more than `limit` bytes.
    pub(crate) fn too_large(limit: u64) -> Self {
        let detail = format!("the request body may have at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Body too large", "too-large", detail)
    }

    /// 415: not JSON.
    pub(crate) fn not_json(sent: &str) -> Self {
        let sent: String = sent.chars().take(80).collect();
        let detail = format!("send the body with `content-type: application/json`; it came as `{sent}`");
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported media type",
            "unsupported-media-type",
            detail,
        )
    }

    /// 422: the input does not fit the model, with every offending field.
    pub(crate) fn invalid_input(errors: &[FieldError]) -> Self {
        let detail = match errors {
            [one] => one.to_string(),
            [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
            [] => "the input does not fit the model's input schema".to_owned(),
        };
        let mut problem = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid input",
            "invalid-input",
            detail,
        );
        if !errors.is_empty() {
            // The same again in the words of today's clients.
            let fields = errors.iter().take(MAX_LISTED_FIELDS).map(|error| {
                let field = match error.field.as_str() {
                    "" => "input".to_owned(),
                    field => format!("input.{field}"),
                };
                json!({"type": "invalid", "field": field, "description": error.message})
            });
            problem = problem.with("invalid_fields", fields.collect());
            let listed = &errors[..errors.len().min(MAX_LISTED_FIELDS)];
            problem = problem.with("errors", json!(listed));
        }
        if errors.len() > MAX_LISTED_FIELDS {
            problem = problem.with("errors_omitted", json!(errors.len() - MAX_LISTED_FIELDS));
        }
        problem
    }

    /// 422: what was sent contradicts itself or cannot be used.
    pub(crate) fn unprocessable(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Unprocessable", code, detail)
    }

    /// 402: the owner's spend limit leaves no room for this call.
    pub(crate) fn spend_limit() -> Self {
        Self::new(
            StatusCode::PAYMENT_REQUIRED,
            "Spend limit reached",
            "spend-limit",
            "this call would pass your spend limit; wait for the next day or month, or ask the operator for a higher one",
        )
    }

    /// 429: this tenant holds its share of the queue already.
    pub(crate) fn over_share(retry_after_s: u64) -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "Too many requests",
            "over-share",
            "your calls hold your share of the queue; wait for some to end",
        )
        .retry_after(retry_after_s)
    }

    /// 429: no more streams can be open now.
    pub(crate) fn too_many_streams(detail: &'static str, retry_after_s: u64) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        Self::new(status, "Too many streams", "too-many-streams", detail).retry_after(retry_after_s)
    }

    /// 503: the server cannot take more now.
    pub(crate) fn busy(detail: impl Into<Cow<'static, str>>, retry_after_s: u64) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Server busy", "busy", detail).retry_after(retry_after_s)
    }

    /// 503: the server is stopping.
    pub(crate) fn stopping() -> Self {
        let detail = "the server is stopping; try again in a moment";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Server stopping", "stopping", detail).retry_after(1)
    }

    /// 503 without a time to try again: the request is right and another version would serve it, but this one is not called until
    /// somebody releases it.
    pub(crate) fn quarantined(model: &str, id: VersionId, why: &Quarantine) -> Self {
        let detail = quarantined(model, id, why);
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Version quarantined",
            "quarantined",
            detail,
        )
        .with("quarantine", shown(why))
    }

    /// 500: the host's own fault. The cause goes to the log, not to the caller.
    pub(crate) fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "Internal error",
            "internal",
            "the server failed; the operator finds the cause in its log under this request's id",
        )
    }

    /// Adds a member to the body.
    pub(crate) fn with(mut self, member: &str, value: Value) -> Self {
        self.0.extra.insert(member.to_owned(), value);
        self
    }

    /// Says when to try again, in seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.0.extra.insert("retry_after".to_owned(), seconds.into());
        self.0.retry_after_s = Some(seconds);
        self
    }

    /// The word for programs.
    pub(crate) fn code(&self) -> &'static str {
        self.0.code
    }

    /// What failed and what to do, in words.
    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The body as JSON.
    pub(crate) fn body(&self) -> Value {
        let inner = &*self.0;
        let mut body = Map::new();
        body.insert("status".to_owned(), inner.status.as_u16().into());
        body.insert("title".to_owned(), inner.title.into());
        body.insert("detail".to_owned(), inner.detail.as_ref().into());
        body.insert("code".to_owned(), inner.code.into());
        body.extend(inner.extra.clone());
        Value::Object(body)
    }
}

/// Why a version is not called, in words.
pub(crate) fn quarantined(model: &str, id: VersionId, why: &Quarantine) -> String {
    let Quarantine { since, faults, reason } = why;
    let since = timestamp(*since);
    format!(
        "this version is quarantined since {since}: {faults} calls in a row broke it, the last one so: {reason}. Once that is understood, \
         its publisher or the operator lets it be called again with POST /v1/models/{model}/versions/{id}/release"
    )
}

/// Why a version is not called, for programs.
pub(crate) fn shown(why: &Quarantine) -> Value {
    json!({"since": timestamp(why.since), "faults": why.faults, "reason": why.reason})
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        // Some clients send every call again that ended so, and this one would end the same way.
        let in_vain = self.0.status == StatusCode::CONFLICT || self.0.status.is_server_error();
        if in_vain && self.0.retry_after_s.is_none() {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = self.0.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_lists_the_first_fields_and_counts_the_rest() {
        let errors: Vec<_> = (0..MAX_LISTED_FIELDS + 5)
            .map(|i| FieldError {
                field: format!("texts[{i}]"),
                message: "expected a string".to_owned(),
            })
            .collect();
        let body = Problem::invalid_input(&errors).body();
        assert_eq!(body["errors"].as_array().map(Vec::len), Some(MAX_LISTED_FIELDS));
        assert_eq!(body["errors_omitted"], 5);
        assert_eq!(body["detail"], "texts[0]: expected a string (and 1004 more)");
        assert_eq!(
            (body["status"].as_u64(), body["code"].as_str()),
            (Some(422), Some("invalid-input"))
        );
    }
}

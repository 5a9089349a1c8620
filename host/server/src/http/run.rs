//! `POST …/run`: the input object in, the output out.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT, AUTHORIZATION};
use axum::http::{HeaderMap, Request, Response};
use axum::response::IntoResponse as _;

use super::origin::origin;
use super::{REQUEST_ID, body, reply, sse};
use crate::app::App;
use crate::auth::{self, Principal, Scope};
use crate::catalog::Version;
use crate::ids;
use crate::predictions::request::Wishes;
use crate::problem::Problem;
use crate::run::{Ask, start};

/// Runs what `latest` stands for.
pub(crate) async fn latest(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
    request: Request<Body>,
) -> Response<Body> {
    let (owner, name) = match path {
        Ok(Path(path)) => path,
        Err(_) => return Problem::not_found("this model").into_response(),
    };
    answer(&app, &format!("{owner}/{name}"), None, request)
        .await
        .unwrap_or_else(Problem::into_response)
}

/// Runs the version that an id or alias stands for.
pub(crate) async fn version(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    request: Request<Body>,
) -> Response<Body> {
    let (owner, name, version) = match path {
        Ok(Path(path)) => path,
        Err(_) => return Problem::not_found("this version").into_response(),
    };
    answer(&app, &format!("{owner}/{name}"), Some(&version), request)
        .await
        .unwrap_or_else(Problem::into_response)
}

async fn answer(
    app: &Arc<App>,
    model: &str,
    version: Option<&str>,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let (principal, version) = find(app, model, version, request.headers())?;
    let (parts, sent) = request.into_parts();
    let id = parts.headers.get(&REQUEST_ID).cloned().unwrap_or_else(ids::random);
    let (bytes, reserved) = body::read(app, &parts.headers, sent).await?;
    let started = Instant::now();
    let fresh = Wishes::read(&parts.headers)?.fresh;
    let secret = parts.headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok());
    let secret = secret.and_then(auth::credential);
    let ask = |body, events| Ask {
        principal: &principal,
        version: &version,
        body,
        started,
        fresh,
        origin: origin(&app.config, &parts.headers),
        secret,
        events,
    };
    if wants_events(&parts.headers) {
        let place = app.streams.place(principal.owner())?;
        let (listener, events) = sse::channel();
        let running = start(app, ask(bytes, Some(listener))).await?;
        drop(reserved);
        return Ok(place.hold(sse::stream(Arc::clone(app), running, events, id)));
    }
    let running = start(app, ask(bytes, None)).await?;
    drop(reserved);
    let header = running.ready().header.clone();
    Ok(match running.finish(app).await {
        Ok(reply) => reply::whole(reply, header, id),
        Err(problem) => {
            let mut response = problem.into_response();
            response.headers_mut().insert(reply::VERSION, header);
            response.headers_mut().insert(reply::PREDICTION, id);
            response
        }
    })
}

fn find(
    app: &App,
    model: &str,
    version: Option<&str>,
    headers: &HeaderMap,
) -> Result<(Principal, Arc<Version>), Problem> {
    let snapshot = app.catalog.now();
    let principal = app.authenticate(&snapshot, headers)?;
    principal.require(Scope::Predict)?;
    let model = snapshot
        .visible(&principal, model)
        .ok_or_else(|| Problem::not_found("this model"))?;
    let version = model
        .resolve(version)
        .ok_or_else(|| Problem::not_found("this version"))?;
    Ok((principal, Arc::clone(version)))
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','));
    accepted
        .map(|range| range.split(';').next().unwrap_or_default().trim())
        .any(|r| r.eq_ignore_ascii_case("text/event-stream"))
}

//! For operators and probes: health, readiness, figures, the server's own OpenAPI document.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use serde_json::json;

use super::json as reply;
use crate::app::App;
use crate::auth::Scope;
use crate::metrics::Now;
use crate::openapi;
use crate::problem::Problem;

/// The process lives.
pub(crate) async fn health() -> Response<Body> {
    reply(StatusCode::OK, &json!({"status": "ok"}))
}

/// The server takes calls: it is not stopping, and its database answers.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Response<Body>, Problem> {
    if app.stopping.load(Ordering::Relaxed) {
        return Err(Problem::stopping());
    }
    if let Err(e) = app.store.ping().await {
        tracing::error!("the database does not answer: {e}");
        return Err(Problem::busy("the database does not answer", 5));
    }
    Ok(reply(StatusCode::OK, &json!({"status": "ready"})))
}

/// Figures as text.
pub(crate) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    if !app.config.open_metrics {
        // It names every model, private ones too.
        app.authorize(&headers, Scope::Admin)?;
    }
    let (queued, running) = app.lanes.depth();
    let snapshot = app.catalog.now();
    let (models, versions) = snapshot.count();
    let connections = app.connections.open();
    let weight_bytes = app.sandboxes.weight_bytes();
    let memory = app.sandboxes.memory();
    let now = Now {
        queued,
        running,
        weight_bytes,
        memory: (memory.held(), memory.shared()),
        open: app.shelf.len(),
        models,
        versions,
        quarantined: snapshot.quarantined(),
        connections,
    };
    let text = app.metrics.text(now).map_err(Problem::internal)?;
    Ok((
        [(
            CONTENT_TYPE,
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        )],
        text,
    )
        .into_response())
}

/// What this server offers.
pub(crate) async fn openapi() -> Response<Body> {
    reply(StatusCode::OK, &openapi::server())
}

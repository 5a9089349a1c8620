//! Webhooks: the secret that they are signed with, and what became of those that were to be delivered.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::files::reader;
use super::models::timestamp;
use super::origin::origin;
use super::{json as reply, listing};
use crate::app::App;
use crate::auth::Scope;
use crate::problem::Problem;
use crate::webhooks::records::{Delivery, Filter};

/// What a delivery may be.
const STATES: [&str; 4] = ["pending", "delivered", "dead", "skipped"];

type Id = Result<Path<String>, PathRejection>;

/// What a list may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Asked {
    cursor: Option<String>,
    prediction: Option<String>,
    state: Option<String>,
}

/// What the caller's webhooks are signed with.
pub(crate) async fn secret(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Predict)?;
    Ok(reply(
        StatusCode::OK,
        &json!({"key": app.deliveries.secret(principal.owner())}),
    ))
}

/// Deliveries, newest first.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let principal = reader(&app, &headers)?;
    let Query(asked) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    if asked.state.as_deref().is_some_and(|state| !STATES.contains(&state)) {
        return Err(Problem::bad_request(format!(
            "`state` must be one of {}",
            STATES.join(", ")
        )));
    }
    let filter = Filter {
        owner: principal.owner().to_string(),
        prediction: asked.prediction.clone(),
        state: asked.state.clone(),
        before: listing::before(asked.cursor.as_deref())?,
        limit: listing::PAGE + 1,
    };
    let found = app.deliveries.list(filter).await?;
    let shown = found
        .iter()
        .map(|delivery| ((delivery.created_at, delivery.id.clone()), show(delivery)));
    let url = format!("{}/v1/webhooks/deliveries", origin(&app.config, &headers));
    let filters = [
        ("prediction", asked.prediction.as_deref()),
        ("state", asked.state.as_deref()),
    ];
    Ok(reply(StatusCode::OK, &listing::page(&url, &filters, shown.collect())))
}

/// One delivery, with what is sent.
pub(crate) async fn get(State(app): State<Arc<App>>, path: Id, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let principal = reader(&app, &headers)?;
    let Path(id) = path.map_err(|_| Problem::not_found("this delivery"))?;
    let delivery = app.deliveries.get(principal.owner(), &id).await?;
    let mut shown = show(&delivery);
    shown["body"] = serde_json::from_str(&delivery.body).unwrap_or(Value::String(delivery.body));
    Ok(reply(StatusCode::OK, &shown))
}

/// Sends a delivery again.
pub(crate) async fn redeliver(
    State(app): State<Arc<App>>,
    path: Id,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Predict)?;
    let Path(id) = path.map_err(|_| Problem::not_found("this delivery"))?;
    let delivery = app.deliveries.redeliver(principal.owner(), &id).await?;
    Ok(reply(StatusCode::ACCEPTED, &show(&delivery)))
}

fn show(delivery: &Delivery) -> Value {
    let pending = delivery.state == "pending";
    json!({
        "id": delivery.id,
        "prediction": delivery.prediction_id,
        "url": delivery.url,
        "event": delivery.event,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "next_attempt_at": pending.then(|| timestamp(delivery.next_at)),
        "last_status": delivery.last_status,
        "last_error": delivery.last_error,
        "created_at": timestamp(delivery.created_at),
        "finished_at": delivery.finished_at.map(timestamp),
    })
}

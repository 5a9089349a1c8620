//! Who the caller is, what hardware there is, and trainings, of which there are none.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, json as reply};
use crate::app::App;
use crate::auth::Scope;
use crate::predictions::request::invalid;
use crate::problem::Problem;

/// `GET /v1/account`.
pub(crate) async fn account(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let principal = app.authenticate(&app.catalog.now(), &headers)?;
    let owner = &**principal.owner();
    let body = json!({"type": "user", "username": owner, "name": owner, "github_url": null, "avatar_url": null});
    Ok(reply(StatusCode::OK, &body))
}

/// `GET /v1/hardware`: a bare list.
pub(crate) async fn hardware(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    app.authorize(&headers, Scope::Read)?;
    let list: Vec<Value> = app
        .config
        .hardware
        .iter()
        .map(|(sku, name)| json!({"sku": sku, "name": name}))
        .collect();
    Ok(reply(StatusCode::OK, &Value::Array(list)))
}

/// `GET /v1/trainings`.
pub(crate) async fn trainings(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    app.authorize(&headers, Scope::Read)?;
    Ok(reply(
        StatusCode::OK,
        &json!({"next": null, "previous": null, "results": []}),
    ))
}

/// `GET /v1/trainings/{id}` and `POST /v1/trainings/{id}/cancel`.
pub(crate) async fn training(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    app.authorize(&headers, Scope::Read)?;
    Err(Problem::not_found("this training"))
}

#[derive(Deserialize)]
struct NewTraining {
    destination: Option<String>,
}

/// `POST /v1/models/{owner}/{name}/versions/{version}/trainings`: no version declares a training yet.
pub(crate) async fn train(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Predict)?;
    let missing = || Problem::not_found("this version");
    let Path((owner, name, version)) = path.map_err(|_| missing())?;
    let model = snapshot
        .visible(&principal, &format!("{owner}/{name}"))
        .ok_or_else(missing)?;
    model.resolve(Some(&version)).ok_or_else(missing)?;
    let new: NewTraining = body::parse(&app, &headers, sent).await?;
    let destination = new.destination.ok_or_else(|| invalid("destination", "is required"))?;
    let there = snapshot.visible(&principal, &destination);
    if there.is_none_or(|model| !principal.publishes_for(model.name.split('/').next().unwrap_or_default())) {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "Not found",
            "not-found",
            "The specified training destination does not exist",
        ));
    }
    Err(Problem::unprocessable(
        "no-training",
        "this version cannot be trained: its component exports no training",
    ))
}

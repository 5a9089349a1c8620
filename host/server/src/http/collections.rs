//! Collections: models that an operator shows together.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use serde_json::{Value, json};

use super::{body, json as reply, models};
use crate::app::App;
use crate::auth::Scope;
use crate::names::check_name;
use crate::problem::Problem;
use crate::registry::Collection;

/// Collections of a server, and models of a collection, at most.
const MOST: usize = 1000;

type One = Result<Path<String>, PathRejection>;

fn missing() -> Problem {
    Problem::not_found("this collection")
}

/// `GET /v1/collections`.
pub(crate) async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Read)?;
    let results: Vec<Value> = snapshot
        .collections()
        .map(|c| json!({"name": c.name, "slug": c.slug, "description": c.description}))
        .collect();
    Ok(reply(
        StatusCode::OK,
        &json!({"next": null, "previous": null, "results": results}),
    ))
}

/// `GET /v1/collections/{slug}`, with those of its models that the caller may know of.
pub(crate) async fn get(State(app): State<Arc<App>>, path: One, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    let Path(slug) = path.map_err(|_| missing())?;
    let collection = snapshot.collection(&slug).ok_or_else(missing)?;
    let names = collection.models.iter();
    let found: Vec<_> = names
        .filter_map(|name| snapshot.visible(&principal, name).cloned())
        .collect();
    let mut body = json!(**collection);
    body["models"] = models::objects(&app, &headers, &found).await?.into();
    Ok(reply(StatusCode::OK, &body))
}

/// `PUT /v1/collections/{slug}`, for admins.
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    path: One,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Admin)?;
    let Path(slug) = path.map_err(|_| missing())?;
    let wrong = |why: String| Problem::unprocessable("invalid-collection", why);
    check_name("slug", &slug).map_err(wrong)?;
    let mut collection: Collection = body::parse(&app, &headers, sent).await?;
    let is_new = snapshot.collection(&slug).is_none();
    if collection.models.len() > MOST || (is_new && snapshot.collections().count() >= MOST) {
        return Err(wrong(format!(
            "there are at most {MOST} collections, of at most {MOST} models each"
        )));
    }
    if let Some(name) = collection.models.iter().find(|name| snapshot.model(name).is_none()) {
        return Err(wrong(format!(
            "the model `{}` does not exist",
            crate::names::shown(name)
        )));
    }
    collection.slug = slug;
    let body = json!(collection);
    app.store.put_collection(collection).await.map_err(Problem::internal)?;
    Ok(reply(StatusCode::OK, &body))
}

/// `DELETE /v1/collections/{slug}`, for admins.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    path: One,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Admin)?;
    let Path(slug) = path.map_err(|_| missing())?;
    snapshot.collection(&slug).ok_or_else(missing)?;
    app.store.remove_collection(slug).await.map_err(Problem::internal)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

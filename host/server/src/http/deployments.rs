//! Deployments: named pointers to versions, each change a release that is kept.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, json as reply, models, timestamp};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::catalog::Snapshot;
use crate::names::{VersionId, check_name};
use crate::predictions::request::invalid;
use crate::problem::Problem;
use crate::registry::Deployment;
use crate::store::now_ms;

/// Deployments of one owner, at most.
const MOST: usize = 1000;

/// The most instances to keep at least, and at most: today's bounds. One host serves any number of calls of a version with one.
const MAX_MIN: u32 = 5;
const MAX_MAX: u32 = 20;

type Two = Result<Path<(String, String)>, PathRejection>;

#[derive(Deserialize)]
struct New {
    name: String,
    model: String,
    version: String,
    hardware: String,
    min_instances: u32,
    max_instances: u32,
}

#[derive(Deserialize)]
struct Changes {
    version: Option<String>,
    hardware: Option<String>,
    min_instances: Option<u32>,
    max_instances: Option<u32>,
}

fn missing() -> Problem {
    Problem::not_found("this deployment")
}

fn show(deployment: &Deployment) -> Value {
    json!({
        "owner": &*deployment.owner,
        "name": deployment.name,
        "current_release": {
            "number": deployment.number,
            "model": deployment.model,
            "version": deployment.version,
            "created_at": timestamp(deployment.created_at),
            "created_by": {
                "type": "user",
                "username": deployment.created_by,
                "name": deployment.created_by,
                "avatar_url": null,
                "github_url": null,
            },
            "configuration": {
                "hardware": deployment.hardware,
                "min_instances": deployment.min_instances,
                "max_instances": deployment.max_instances,
            },
        },
    })
}

/// Checks a release that is to be.
fn check(app: &App, snapshot: &Snapshot, principal: &Principal, new: &Deployment) -> Result<(), Problem> {
    let model = snapshot.visible(principal, &new.model);
    let model = model.ok_or_else(|| invalid("model", "does not exist"))?;
    if model.resolve(Some(&new.version.to_string())).is_none() {
        return Err(invalid("version", "is no version of this model"));
    }
    if !app.config.hardware.iter().any(|(sku, _)| *sku == new.hardware) {
        return Err(invalid("hardware", "is none of GET /v1/hardware"));
    }
    if new.min_instances > MAX_MIN {
        return Err(invalid("min_instances", &format!("must be 0 to {MAX_MIN}")));
    }
    if new.max_instances > MAX_MAX || new.max_instances < new.min_instances {
        let range = format!("must be `min_instances` to {MAX_MAX}");
        return Err(invalid("max_instances", &range));
    }
    Ok(())
}

fn version(text: &str) -> Result<VersionId, Problem> {
    VersionId::parse(text).ok_or_else(|| invalid("version", "must be an id: 64 lower-case hex digits"))
}

/// `GET /v1/deployments`: the caller's owner's, newest release first.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<models::Page>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    let (limit, after) = models::Page::read(query)?;
    let mut own: Vec<_> = snapshot
        .deployments()
        .filter(|d| d.owner == *principal.owner())
        .collect();
    own.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.name.cmp(&b.name)));
    let start = match after {
        None => 0,
        Some(name) => own.iter().position(|d| d.name == name).map_or(own.len(), |at| at + 1),
    };
    let found = own.into_iter().skip(start).take(limit + 1);
    let found = found.map(|d| (d.name.clone(), show(d))).collect();
    Ok(reply(
        StatusCode::OK,
        &models::page(&app, &headers, "/v1/deployments", limit, found),
    ))
}

/// `POST /v1/deployments`.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Predict)?;
    let new: New = body::parse(&app, &headers, sent).await?;
    check_name("name", &new.name).map_err(|why| invalid("name", &why))?;
    let owner = principal.owner();
    if snapshot.deployment(owner, &new.name).is_some() {
        return Err(Problem::conflict("a deployment of this name exists already"));
    }
    if snapshot.deployments().filter(|d| d.owner == *owner).count() >= MOST {
        return Err(Problem::unprocessable(
            "too-many",
            format!("an owner has at most {MOST} deployments"),
        ));
    }
    let deployment = Deployment {
        owner: Arc::clone(owner),
        name: new.name,
        number: 1,
        model: new.model,
        version: version(&new.version)?,
        hardware: new.hardware,
        min_instances: new.min_instances,
        max_instances: new.max_instances,
        created_at: now_ms(),
        created_by: owner.to_string(),
    };
    check(&app, &snapshot, &principal, &deployment)?;
    let body = show(&deployment);
    released(&app, deployment).await?;
    Ok(reply(StatusCode::OK, &body))
}

/// Keeps a release, if nothing has changed under it.
async fn released(app: &App, release: Deployment) -> Result<(), Problem> {
    if app.store.release(release).await.map_err(Problem::internal)? {
        return Ok(());
    }
    Err(Problem::conflict(
        "the deployment or its version was changed at the same time; look at it and try again",
    ))
}

/// A deployment of the caller's owner.
fn find<'a>(snapshot: &'a Snapshot, principal: &Principal, path: Two) -> Result<&'a Arc<Deployment>, Problem> {
    let Path((owner, name)) = path.map_err(|_| missing())?;
    if *owner != **principal.owner() {
        return Err(missing());
    }
    snapshot.deployment(principal.owner(), &name).ok_or_else(missing)
}

/// `GET /v1/deployments/{owner}/{name}`.
pub(crate) async fn get(State(app): State<Arc<App>>, path: Two, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    Ok(reply(StatusCode::OK, &show(find(&snapshot, &principal, path)?)))
}

/// `PATCH /v1/deployments/{owner}/{name}`: the next release.
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    path: Two,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Predict)?;
    let old = find(&snapshot, &principal, path)?;
    let changes: Changes = body::parse(&app, &headers, sent).await?;
    let mut next = (**old).clone();
    next.number += 1;
    next.created_at = now_ms();
    if let Some(text) = changes.version {
        next.version = version(&text)?;
    }
    next.hardware = changes.hardware.unwrap_or(next.hardware);
    next.min_instances = changes.min_instances.unwrap_or(next.min_instances);
    next.max_instances = changes.max_instances.unwrap_or(next.max_instances);
    check(&app, &snapshot, &principal, &next)?;
    let body = show(&next);
    released(&app, next).await?;
    Ok(reply(StatusCode::OK, &body))
}

/// `DELETE /v1/deployments/{owner}/{name}`.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    path: Two,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Predict)?;
    let deployment = find(&snapshot, &principal, path)?;
    app.store
        .remove_deployment(Arc::clone(&deployment.owner), deployment.name.clone())
        .await
        .map_err(Problem::internal)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

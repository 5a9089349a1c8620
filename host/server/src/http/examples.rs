//! Examples of a model: the cases of its latest version, as predictions that succeeded.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use maquette_package::cases::Case;
use maquette_package::version::VersionManifest;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::origin::origin;
use super::{json as reply, timestamp};
use crate::app::App;
use crate::auth::Scope;
use crate::catalog::Model;
use crate::ids::base32;
use crate::problem::Problem;

/// Cases that are shown, at most.
const MOST: usize = 32;

/// The most bytes of a case that is shown.
const MAX_CASE: u64 = 1 << 20;

/// `GET /v1/models/{owner}/{name}/examples`.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    let missing = || Problem::not_found("this model");
    let Path((owner, name)) = path.map_err(|_| missing())?;
    let model = snapshot
        .visible(&principal, &format!("{owner}/{name}"))
        .ok_or_else(missing)?;
    let results = of(&app, &headers, model, MOST).await?;
    Ok(reply(
        StatusCode::OK,
        &json!({"next": null, "previous": null, "results": results}),
    ))
}

/// The first examples of a model.
pub(crate) async fn of(
    app: &Arc<App>,
    headers: &HeaderMap,
    model: &Arc<Model>,
    most: usize,
) -> Result<Vec<Value>, Problem> {
    let Some(version) = model.resolve(None).cloned() else {
        return Ok(Vec::new());
    };
    let stored = app.store.version(version.id).await.map_err(Problem::internal)?;
    let stored = stored.ok_or_else(|| Problem::internal("a version of the catalog is not in the database"))?;
    let (blobs, origin, model) = (Arc::clone(&app.blobs), origin(&app.config, headers), Arc::clone(model));
    let work = move || {
        let manifest = VersionManifest::from_json(&stored.manifest).map_err(|e| e.to_string())?;
        let mut examples = Vec::new();
        for blob in manifest.cases.iter().filter(|blob| blob.size <= MAX_CASE).take(most) {
            let bytes = blobs.read(&blob.sha256).map_err(|e| e.to_string())?;
            let case = Case::from_json(&bytes).map_err(|e| e.to_string())?;
            let id = base32(&Sha256::digest(format!("{} {}", version.id, case.name))[..16]);
            let at = timestamp(version.created_at);
            let url = format!("{origin}/v1/models/{}/examples", model.name);
            examples.push(json!({
                "id": id,
                "model": &*model.name,
                "version": version.id,
                "status": "succeeded",
                "input": case.input,
                "output": case.output,
                "error": null,
                "logs": case.description,
                "data_removed": false,
                "source": "web",
                "created_at": at,
                "started_at": at,
                "completed_at": at,
                "metrics": {},
                "urls": {"get": url, "cancel": url, "web": url},
            }));
        }
        Ok::<_, String>(examples)
    };
    let read = tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?;
    read.map_err(Problem::internal)
}

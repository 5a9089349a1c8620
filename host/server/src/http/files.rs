//! Files: sent, listed, looked at, downloaded, removed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::models::timestamp;
use super::origin::origin;
use super::{body, download, json as reply, listing, upload};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::files::links::{self, Signed};
use crate::files::{File, Kind, New, not_found};
use crate::problem::Problem;

type Id = Result<Path<String>, PathRejection>;

/// What a list may be asked for.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    cursor: Option<String>,
}

/// What a signed link carries.
#[derive(Debug, Deserialize)]
pub(crate) struct Link {
    owner: String,
    expiry: i64,
    signature: String,
}

/// Whoever may look: a token that reads, or one that predicts.
pub(super) fn reader(app: &App, headers: &HeaderMap) -> Result<Principal, Problem> {
    let read = app.authorize(headers, Scope::Read);
    let (principal, _) = read.or_else(|_| app.authorize(headers, Scope::Predict))?;
    Ok(principal)
}

/// Keeps a file.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Predict)?;
    let owner = principal.owner();
    let limit = app.files.largest();
    let announced = body::announced(&headers).unwrap_or(0);
    if announced > limit.saturating_add(upload::BESIDE) {
        return Err(upload::too_large(limit));
    }
    app.files
        .check_room(owner, announced.saturating_sub(upload::BESIDE))
        .await?;
    let place = app.uploads.place(owner)?;
    let sent = upload::read(&app, &headers, sent).await?;
    drop(place);
    let new = New {
        owner: Arc::clone(owner),
        kind: Kind::Upload,
        prediction_id: None,
        name: sent.name,
        content_type: sent.content_type,
        metadata: sent.metadata,
    };
    let kept = app.files.keep(vec![(new, sent.incoming)]).await?;
    let file = kept
        .first()
        .ok_or_else(|| Problem::internal("a file that was kept is not there"))?;
    Ok(reply(StatusCode::CREATED, &show(&app, &headers, file)))
}

/// Files, newest first.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<Asked>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let principal = reader(&app, &headers)?;
    let Query(asked) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let before = listing::before(asked.cursor.as_deref())?;
    let files = app.files.list(principal.owner(), before, listing::PAGE + 1).await?;
    let shown = files
        .iter()
        .map(|file| ((file.created_at, file.id.clone()), show(&app, &headers, file)));
    let url = format!("{}/v1/files", origin(&app.config, &headers));
    Ok(reply(StatusCode::OK, &listing::page(&url, &[], shown.collect())))
}

/// What is known of a file.
pub(crate) async fn get(State(app): State<Arc<App>>, path: Id, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let principal = reader(&app, &headers)?;
    let Path(id) = path.map_err(|_| not_found())?;
    let file = app.files.get(principal.owner(), &id).await?;
    Ok(reply(StatusCode::OK, &show(&app, &headers, &file)))
}

/// Removes a file.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    path: Id,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Predict)?;
    let Path(id) = path.map_err(|_| not_found())?;
    app.files.delete(principal.owner(), &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A file's bytes, for whoever holds a signed link.
pub(crate) async fn bytes(
    State(app): State<Arc<App>>,
    path: Id,
    query: Result<Query<Link>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (Ok(Path(id)), Ok(Query(link))) = (path, query) else {
        return Err(not_found());
    };
    let Link {
        owner,
        expiry,
        signature,
    } = link;
    let link = Signed {
        id,
        owner,
        expiry,
        signature,
    };
    let file = app.files.by_link(&link).await?;
    let place = app.streams.place(&file.owner)?;
    let response = download::send(&app.files, &file, &headers).await?;
    Ok(place.hold(response))
}

/// A file as today's clients read it; `kind` and `urls.download` are beyond what they know.
fn show(app: &App, headers: &HeaderMap, file: &File) -> Value {
    let origin = origin(&app.config, headers);
    let sha256 = hex::encode(file.sums.sha256);
    json!({
        "id": file.id,
        "name": file.name,
        "kind": file.kind.name(),
        "content_type": file.content_type,
        "size": file.sums.size,
        "etag": sha256,
        "checksums": {"sha256": sha256, "md5": hex::encode(file.sums.md5)},
        "metadata": serde_json::from_str::<Value>(&file.metadata).unwrap_or_else(|_| json!({})),
        "created_at": timestamp(file.created_at),
        "expires_at": timestamp(file.expires_at),
        "urls": {"get": links::metadata(&origin, &file.id), "download": app.files.download_url(&origin, file)},
    })
}

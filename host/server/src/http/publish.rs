//! Publishing over HTTP: which blobs are missing, sending them, making a version of them, moving an alias.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use bytes::Bytes;
use maquette_package::Digest;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::{body, json as reply};
use crate::app::App;
use crate::auth::Scope;
use crate::names::{VersionId, check_alias, check_name};
use crate::problem::Problem;
use crate::publish::{Request, publish};

/// Digests that one question may name.
const MAX_DIGESTS: usize = 10_000;

/// Pieces of an upload that wait for the disk.
const PIECES: usize = 8;

type Two = Result<Path<(String, String)>, PathRejection>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Missing {
    pub(crate) digests: Vec<String>,
}

/// Which of these blobs the server lacks.
pub(crate) async fn missing(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    app.authorize(&headers, Scope::Publish)?;
    let Missing { digests } = body::parse(&app, &headers, sent).await?;
    if digests.len() > MAX_DIGESTS {
        return Err(Problem::unprocessable(
            "too-many",
            format!("at most {MAX_DIGESTS} digests can be asked for at once"),
        ));
    }
    let digests = digests.iter().map(|text| digest(text)).collect::<Result<Vec<_>, _>>()?;
    let work = tokio::task::spawn_blocking(move || {
        let missing = digests
            .iter()
            .filter(|digest| !app.blobs.has(digest))
            .map(ToString::to_string);
        missing.collect::<Vec<_>>()
    });
    let missing = work.await.map_err(Problem::internal)?;
    Ok(reply(StatusCode::OK, &json!({"missing": missing})))
}

pub(crate) fn digest(text: &str) -> Result<Digest, Problem> {
    VersionId::parse(text).and_then(|_| text.parse().ok()).ok_or_else(|| {
        Problem::unprocessable(
            "invalid-digest",
            format!(
                "`{}` is not a sha256: 64 lower-case hex digits",
                crate::names::shown(text)
            ),
        )
    })
}

/// Stores bytes under their digest.
pub(crate) async fn blob(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Publish)?;
    let Path(text) = path.map_err(|_| Problem::not_found("this blob"))?;
    let expected = digest(&text)?;
    let limit = app.config.max_blob_bytes;
    let announced = body::announced(&headers);
    if announced.is_some_and(|length| length > limit) {
        return Err(Problem::too_large(limit));
    }
    let stored = |new: bool| {
        let status = if new { StatusCode::CREATED } else { StatusCode::OK };
        Ok(reply(status, &json!({"sha256": text})))
    };
    let place = app.uploads.place(principal.owner())?;
    let mut sent = body::Coming::new(&app.config, sent);
    if app.blobs.has(&expected) {
        // What is there is right; the body is read to its end so that the connection can be used again, and kept nowhere.
        let mut left = limit;
        while let Some(piece) = sent.next().await? {
            left = left
                .checked_sub(piece.len() as u64)
                .ok_or_else(|| Problem::too_large(limit))?;
        }
        return stored(false);
    }
    let (pieces, queue) = mpsc::channel(PIECES);
    let blobs = Arc::clone(&app.blobs);
    let writing = tokio::task::spawn_blocking(move || {
        let _place = place;
        write(&blobs, &expected, queue)
    });
    let mut size = 0_u64;
    while let Some(piece) = sent.next().await? {
        size += piece.len() as u64;
        if size > limit {
            return Err(Problem::too_large(limit));
        }
        if pieces.send(Some(piece)).await.is_err() {
            // The disk refused; the writer says why.
            break;
        }
    }
    let _ = pieces.send(None).await;
    drop(pieces);
    writing.await.map_err(Problem::internal)??;
    stored(true)
}

/// Writes pieces until the end; without an end (the client left) nothing is kept.
fn write(
    blobs: &maquette_package::blobs::BlobStore,
    expected: &Digest,
    mut queue: mpsc::Receiver<Option<Bytes>>,
) -> Result<(), Problem> {
    use std::io::Write as _;
    let mut writer = blobs.writer(expected).map_err(|e| disk(&e))?;
    loop {
        match queue.blocking_recv() {
            Some(Some(piece)) => writer.write_all(&piece).map_err(|e| disk(&e))?,
            Some(None) => break,
            None => return Err(Problem::bad_request("the body ended early")),
        }
    }
    match writer.commit() {
        Ok(_) => Ok(()),
        Err(e) if is_mismatch(&e) => Err(Problem::unprocessable("digest-mismatch", e.to_string())),
        Err(e) => Err(disk(&e)),
    }
}

/// Whether the bytes are not what their digest promised.
fn is_mismatch(error: &maquette_package::Error) -> bool {
    matches!(error, maquette_package::Error::Mismatch { .. })
}

/// The disk failed; if it is full, the client is told so.
fn disk(error: &(dyn std::error::Error + 'static)) -> Problem {
    let mut cause = Some(error);
    while let Some(e) = cause {
        if e.downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::StorageFull)
        {
            return Problem::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "Disk full",
                "disk-full",
                "the server's disk is full; its operator has to make room",
            );
        }
        cause = e.source();
    }
    Problem::internal(error)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewVersion {
    manifest: serde_json::Value,
    id: Option<VersionId>,
    aliases: Option<Vec<String>>,
    #[serde(default)]
    accept_grants: bool,
}

impl NewVersion {
    /// What is asked for, for a model `owner/name`.
    pub(crate) fn request(self, model: &str) -> Request {
        Request {
            model: model.to_owned(),
            manifest: self.manifest,
            id: self.id,
            aliases: self.aliases,
            accept_grants: self.accept_grants,
        }
    }
}

/// Publishes a version.
pub(crate) async fn version(
    State(app): State<Arc<App>>,
    path: Two,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Publish)?;
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this model"))?;
    check_name("owner", &owner)
        .and_then(|()| check_name("model", &name))
        .map_err(|why| Problem::unprocessable("invalid-name", why))?;
    principal.require_publish(&owner)?;
    let new: NewVersion = body::parse(&app, &headers, sent).await?;
    let model = format!("{owner}/{name}");
    let published = publish(&app, new.request(&model)).await?;
    let snapshot = app.catalog.now();
    let aliases = snapshot
        .model(&model)
        .map(|m| m.aliases_of(published.id))
        .unwrap_or_default();
    let url = format!("/v1/models/{model}/versions/{}", published.id);
    let status = if published.new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let answer =
        json!({"id": published.id, "model": model, "aliases": aliases, "url": url, "run": format!("{url}/run")});
    let mut response = reply(status, &answer);
    if let Ok(location) = axum::http::HeaderValue::try_from(url) {
        response.headers_mut().insert(axum::http::header::LOCATION, location);
    }
    Ok(response)
}

/// Lets a version that was quarantined be called again.
pub(crate) async fn release(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Publish)?;
    let Path((owner, name, version)) = path.map_err(|_| Problem::not_found("this version"))?;
    principal.require_publish(&owner)?;
    let version = snapshot
        .model(&format!("{owner}/{name}"))
        .and_then(|model| model.resolve(Some(&version)))
        .ok_or_else(|| Problem::not_found("this version"))?;
    app.store
        .unquarantine(version.model.to_string(), version.id)
        .await
        .map_err(Problem::internal)?;
    let released = version.health.set(None);
    if released {
        tracing::info!(model = %version.model, version = %version.id, by = %principal.owner(), "a version is released");
    }
    Ok(reply(
        StatusCode::OK,
        &json!({"id": version.id, "model": *version.model, "released": released}),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PointTo {
    pub(crate) version: String,
}

/// Points an alias at a version.
pub(crate) async fn alias(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Publish)?;
    let Path((owner, name, alias)) = path.map_err(|_| Problem::not_found("this alias"))?;
    principal.require_publish(&owner)?;
    check_alias(&alias).map_err(|why| Problem::unprocessable("invalid-alias", why))?;
    let model = snapshot
        .model(&format!("{owner}/{name}"))
        .ok_or_else(|| Problem::not_found("this model"))?;
    let PointTo { version } = body::parse(&app, &headers, sent).await?;
    let id = model
        .resolve(Some(&version))
        .ok_or_else(|| Problem::not_found("this version"))?
        .id;
    app.store
        .point(model.name.to_string(), vec![alias.clone()], id)
        .await
        .map_err(|e| match e.is_constraint() {
            true => Problem::conflict("this version was removed at the same time"),
            false => Problem::internal(e),
        })?;
    Ok(reply(StatusCode::OK, &json!({"alias": alias, "version": id})))
}

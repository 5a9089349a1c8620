//! Predictions: made, looked at, listed, cancelled, removed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::Value;

use super::origin::origin;
use super::streams::shown;
use super::{body, parse_timestamp, reply, streams};
use crate::app::App;
use crate::auth::{self, Principal, Scope};
use crate::catalog::{Snapshot, Version};
use crate::names::VersionId;
use crate::predictions::engine::Ask;
use crate::predictions::live::{Live, Reason};
use crate::predictions::record::{Prediction, Source};
use crate::predictions::request::{self, VersionName, Wishes};
use crate::predictions::status::Status;
use crate::predictions::view::{self, Waits};
use crate::predictions::{self, engine};
use crate::problem::Problem;
use crate::store::ledger::{self, Filter, IdempotencyKey};
use crate::store::now_ms;

/// What the reply did of what the request preferred.
const APPLIED: HeaderName = HeaderName::from_static("preference-applied");

/// Predictions on a page.
const PAGE: usize = 100;

type One = Result<Path<String>, PathRejection>;
type Two = Result<Path<(String, String)>, PathRejection>;

/// `POST /v1/predictions`: the body names the version.
pub(crate) async fn create(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response<Body>, Problem> {
    make(&app, Target::Body, None, request).await
}

/// `PUT /v1/predictions/{id}`: the caller names the prediction, so that sending it twice does it once.
pub(crate) async fn put(
    State(app): State<Arc<App>>,
    path: One,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let Path(id) = path.map_err(|_| Problem::not_found("this prediction"))?;
    request::check_id(&id)?;
    make(&app, Target::Body, Some(id), request).await
}

/// `POST /v1/models/{owner}/{name}/predictions`: what `latest` stands for.
pub(crate) async fn of_model(
    State(app): State<Arc<App>>,
    path: Two,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this model"))?;
    make(&app, Target::Model(format!("{owner}/{name}")), None, request).await
}

/// `POST /v1/deployments/{owner}/{name}/predictions`: what the deployment's last release names.
pub(crate) async fn of_deployment(
    State(app): State<Arc<App>>,
    path: Two,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this deployment"))?;
    make(&app, Target::Deployment(owner, name), None, request).await
}

/// What a path says of the version.
enum Target {
    /// Nothing: the body does.
    Body,
    /// `owner/name`.
    Model(String),
    /// Owner and name.
    Deployment(String, String),
}

impl Target {
    /// Finds the version, and the deployment if there is one in between.
    fn resolve(
        &self,
        snapshot: &Snapshot,
        principal: &Principal,
        version: Option<&str>,
    ) -> Result<(Arc<Version>, Option<String>), Problem> {
        match self {
            Self::Deployment(owner, name) => {
                let missing = || Problem::not_found("this deployment");
                let own = (**owner == **principal.owner()).then(|| snapshot.deployment(principal.owner(), name));
                let deployment = own.flatten().ok_or_else(missing)?;
                let version = snapshot
                    .visible(principal, &deployment.model)
                    .and_then(|model| model.resolve(Some(&deployment.version.to_string())));
                let version = version.ok_or_else(|| Problem::not_found("the version of this deployment"))?;
                Ok((Arc::clone(version), Some(format!("{owner}/{name}"))))
            }
            Self::Model(name) => {
                let model = snapshot
                    .visible(principal, name)
                    .ok_or_else(|| Problem::not_found("this model"))?;
                let version = model
                    .resolve(None)
                    .ok_or_else(|| Problem::not_found("a version of this model"))?;
                Ok((Arc::clone(version), None))
            }
            Self::Body => {
                let text = version.ok_or_else(|| request::invalid("version", "is required"))?;
                let found = match VersionName::parse(text) {
                    Some(VersionName::Id(id)) => snapshot.version(principal, &id),
                    Some(VersionName::Model { model, reference }) => snapshot
                        .visible(principal, &model)
                        .and_then(|model| model.resolve(reference.as_deref())),
                    None => None,
                };
                Ok((Arc::clone(found.ok_or_else(Problem::invalid_version)?), None))
            }
        }
    }
}

async fn make(
    app: &Arc<App>,
    target: Target,
    id: Option<String>,
    request: Request<Body>,
) -> Result<Response<Body>, Problem> {
    let (parts, sent) = request.into_parts();
    let (principal, snapshot) = app.authorize(&parts.headers, Scope::Predict)?;
    let wishes = Wishes::read(&parts.headers)?;
    let (bytes, _reserved) = body::read(app, &parts.headers, sent).await?;
    let value: Value = serde_json::from_slice(&bytes).map_err(|e| crate::run::invalid_json(&e))?;
    drop(bytes);
    let body = request::Body::parse(value)?;
    let (version, deployment) = target.resolve(&snapshot, &principal, body.version.as_deref())?;
    drop(snapshot);
    let id = match (id, body.id) {
        (Some(path), Some(body)) if path != body => {
            return Err(request::invalid("id", "is another one than in the path"));
        }
        (path, _) => path,
    };
    let owner = Arc::clone(principal.owner());
    let key = wishes.key.clone().map(|key| {
        let fingerprint = request::fingerprint(version.id, &body.input, body.webhook.as_ref());
        // As nobody can compute it without the server's key: a short secret could be guessed from a plain digest.
        let fingerprint = app.secrets.sign("request", &hex::encode(fingerprint));
        IdempotencyKey { key, fingerprint }
    });

    // One at a time under a name of the caller's choice, from the look to the row. Ids before keys, so that nobody waits in a ring.
    let names = [
        id.as_ref().map(|id| format!("id {id}")),
        key.as_ref().map(|named| format!("key {}", named.key)),
    ];
    let mut alone = Vec::new();
    for name in names.iter().flatten() {
        alone.push(predictions::alone(app, &owner, name).await);
    }
    if let Some(found) = existing(app, &owner, id.as_deref(), key.as_ref()).await? {
        return Ok(match found {
            Found::Live(live) => answer(app, &live, &wishes, true).await,
            Found::Kept(row) => object(StatusCode::OK, shown(app, &row, None)),
        });
    }
    let secret = parts.headers.get(axum::http::header::AUTHORIZATION);
    let secret = secret.and_then(|v| v.to_str().ok()).and_then(auth::credential);
    if let Some(hook) = &body.webhook {
        app.deliveries.check_url(&hook.url)?;
    }
    let named = id.is_some() || key.is_some();
    let ask = Ask {
        version,
        deployment,
        input: body.input,
        webhook: body.webhook,
        cancel_after: wishes.cancel_after.or(body.lifetime),
        id,
        key,
        fresh: wishes.fresh || body.fresh,
        source: Source::Api,
        origin: origin(&app.config, &parts.headers),
        secret: secret.map(str::to_owned),
        waits: wishes.wait.is_some() && !named,
        alone,
        principal,
    };
    let accepted = engine::create(app, ask).await?;
    let response = answer(app, &accepted.live, &wishes, false).await;
    accepted.told();
    Ok(response)
}

enum Found {
    Live(Arc<Live>),
    Kept(Box<Prediction>),
}

/// What the caller's id or key stands for already.
async fn existing(
    app: &App,
    owner: &Arc<str>,
    id: Option<&str>,
    key: Option<&IdempotencyKey>,
) -> Result<Option<Found>, Problem> {
    if let Some(named) = key {
        let (of, key) = (Arc::clone(owner), named.key.clone());
        let found = app.store.read(move |c| ledger::find_key(c, &of, &key)).await;
        if let Some((known, id_of_key)) = found.map_err(Problem::internal)? {
            if known != named.fingerprint || id.is_some_and(|wanted| wanted != id_of_key) {
                return Err(Problem::unprocessable(
                    "idempotency-key-reused",
                    "this `Idempotency-Key` was used for another request: use a new one for each request",
                ));
            }
            return find(app, owner, &id_of_key).await;
        }
    }
    match id {
        Some(id) => find(app, owner, id).await,
        None => Ok(None),
    }
}

async fn find(app: &App, owner: &Arc<str>, id: &str) -> Result<Option<Found>, Problem> {
    if let Some(live) = app.predictions.get(owner, id) {
        return Ok(Some(Found::Live(live)));
    }
    let (owner, id) = (Arc::clone(owner), id.to_owned());
    let row = app.store.read(move |c| ledger::find(c, &owner, &id)).await;
    Ok(row.map_err(Problem::internal)?.map(|row| Found::Kept(Box::new(row))))
}

/// The reply to a request for a prediction: held as long as was asked for.
async fn answer(app: &App, live: &Arc<Live>, wishes: &Wishes, known: bool) -> Response<Body> {
    if let Some((hold, _)) = &wishes.wait {
        let _ = tokio::time::timeout(*hold, live.ended()).await;
    }
    // A caller who gets an id can count on it.
    live.recorded().await;
    let row = live.row();
    if live.is_left() && !live.is_recorded() {
        return Problem::stopping().into_response();
    }
    let ended = row.status.is_terminal();
    let (status, text) = if wishes.wait.is_some() && ended {
        (StatusCode::CREATED, shown(app, &row, None))
    } else {
        let waits = waits(app, live, &row);
        let stream = streams::path(app, &row.owner, &row.id);
        let waited = wishes.wait.is_some();
        let status = if waited {
            StatusCode::ACCEPTED
        } else {
            StatusCode::CREATED
        };
        let text = if ended && known {
            view::object(&row, &stream, None)
        } else {
            view::still_starting(row.clone(), &stream, waits)
        };
        (status, text)
    };
    let status = if known && ended { StatusCode::OK } else { status };
    let mut response = object(status, text);
    let headers = response.headers_mut();
    if let Some((_, applied)) = &wishes.wait
        && let Ok(value) = HeaderValue::try_from(applied)
    {
        headers.insert(APPLIED, value);
    }
    if !ended && let Ok(value) = HeaderValue::try_from(format!("{}/v1/predictions/{}", row.origin, row.id)) {
        headers.insert(LOCATION, value);
    }
    headers.insert(reply::CACHE, HeaderValue::from_static(row.cache.name()));
    response
}

fn waits(app: &App, live: &Live, row: &Prediction) -> Option<Waits> {
    if row.status != Status::Starting {
        return None;
    }
    let (position, us) = app.lanes.forecast(&live.cancel)?;
    Some(Waits {
        position,
        expected_start: now_ms().saturating_add(i64::try_from(us / 1000).unwrap_or(i64::MAX)),
    })
}

fn object(status: StatusCode, text: String) -> Response<Body> {
    let headers = [
        (
            CONTENT_TYPE,
            HeaderValue::from_static("application/json; charset=UTF-8"),
        ),
        // Some frameworks keep what they poll.
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, text).into_response()
}

/// Who may look at predictions: whoever may make them, and whoever may look at things.
fn viewer(app: &App, headers: &HeaderMap) -> Result<Principal, Problem> {
    let (principal, _) = app
        .authorize(headers, Scope::Predict)
        .or_else(|_| app.authorize(headers, Scope::Read))?;
    Ok(principal)
}

/// `GET /v1/predictions/{id}`.
pub(crate) async fn get(State(app): State<Arc<App>>, path: One, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let principal = viewer(&app, &headers)?;
    let missing = || Problem::not_found("this prediction");
    let Path(id) = path.map_err(|_| missing())?;
    let text = match find(&app, principal.owner(), &id).await? {
        Some(Found::Live(live)) => {
            live.recorded().await;
            let row = live.row();
            let waits = waits(&app, &live, &row);
            shown(&app, &row, waits)
        }
        Some(Found::Kept(row)) => shown(&app, &row, None),
        None => return Err(missing()),
    };
    Ok(object(StatusCode::OK, text))
}

/// `POST /v1/predictions/{id}/cancel`. Of one that has ended: as it is.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    path: One,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Predict)?;
    let missing = || Problem::not_found("this prediction");
    let Path(id) = path.map_err(|_| missing())?;
    let text = match find(&app, principal.owner(), &id).await? {
        Some(Found::Live(live)) => {
            live.stop(Reason::Caller);
            // A guest is stopped within a tick of its clock; a host op in flight may take longer.
            let _ = tokio::time::timeout(std::time::Duration::from_secs(1), live.ended()).await;
            shown(&app, &live.row(), None)
        }
        Some(Found::Kept(row)) => shown(&app, &row, None),
        None => return Err(missing()),
    };
    Ok(object(StatusCode::OK, text))
}

/// `DELETE /v1/predictions/{id}`: its input, output and logs are removed; what it cost stays.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    path: One,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Predict)?;
    let missing = || Problem::not_found("this prediction");
    let Path(id) = path.map_err(|_| missing())?;
    let owner = principal.owner();
    if let Some(live) = app.predictions.get(owner, &id)
        && !live.status().is_terminal()
    {
        return Err(Problem::conflict(
            "this prediction has not ended; cancel it first, or wait for its end",
        ));
    }
    let (of, wanted) = (Arc::clone(owner), id.clone());
    let cleared = app.store.write(move |c| ledger::clear(c, &of, &wanted)).await;
    if !cleared.map_err(Problem::internal)? {
        return Err(missing());
    }
    app.predictions.drop_ended(owner, &id);
    app.files.delete_outputs(owner, &id).await.map_err(Problem::internal)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What a list may be asked for.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Wanted {
    cursor: Option<String>,
    limit: Option<usize>,
    model: Option<String>,
    version: Option<String>,
    status: Option<String>,
    source: Option<String>,
    created_after: Option<String>,
    created_before: Option<String>,
}

impl Wanted {
    fn filter(&self) -> Result<(Filter, usize), Problem> {
        let wrong = |name: &str, what: &str| Problem::bad_request(format!("`{name}` {what}"));
        let limit = self.limit.unwrap_or(PAGE);
        if !(1..=PAGE).contains(&limit) {
            return Err(wrong("limit", "must be 1 to 100"));
        }
        let time = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => parse_timestamp(text)
                .map(Some)
                .ok_or_else(|| wrong(name, "is a time such as 2026-11-23T15:04:05Z")),
        };
        let cursor = self.cursor.as_deref().map(|text| {
            let bytes = hex::decode(text).ok().and_then(|b| <[u8; 8]>::try_from(b).ok());
            bytes
                .map(i64::from_be_bytes)
                .ok_or_else(|| wrong("cursor", "is not one that this server gave out"))
        });
        let filter =
            Filter {
                before: cursor.transpose()?,
                model: self.model.clone(),
                version: match &self.version {
                    None => None,
                    Some(text) => Some(VersionId::parse(text).ok_or_else(|| wrong("version", "is 64 hex digits"))?),
                },
                status: match &self.status {
                    None => None,
                    Some(text) => Some(Status::parse(text).ok_or_else(|| {
                        wrong("status", "is one of starting, processing, succeeded, failed, canceled")
                    })?),
                },
                source: match self.source.as_deref() {
                    None => None,
                    Some("api") => Some(Source::Api),
                    Some("web") => Some(Source::Web),
                    Some(_) => return Err(wrong("source", "is api or web")),
                },
                created_after: time("created_after", &self.created_after)?,
                created_before: time("created_before", &self.created_before)?,
            };
        Ok((filter, limit))
    }

    /// The query of the next page.
    fn next(&self, last: i64, limit: usize) -> String {
        let mut query = format!("cursor={}&limit={limit}", hex::encode(last.to_be_bytes()));
        for (name, value) in [
            ("model", &self.model),
            ("version", &self.version),
            ("status", &self.status),
            ("source", &self.source),
            ("created_after", &self.created_after),
            ("created_before", &self.created_before),
        ] {
            if let Some(value) = value {
                query.push('&');
                query.push_str(name);
                query.push('=');
                for byte in value.bytes() {
                    if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
                        query.push(char::from(byte));
                    } else {
                        query.push_str(&format!("%{byte:02X}"));
                    }
                }
            }
        }
        query
    }
}

/// `GET /v1/predictions`: newest first.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let principal = viewer(&app, &headers)?;
    let Query(wanted) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let (filter, limit) = wanted.filter()?;
    let owner = Arc::clone(principal.owner());
    let rows = app
        .store
        .read(move |c| ledger::list(c, &owner, &filter, limit + 1))
        .await
        .map_err(Problem::internal)?;
    let next = (rows.len() > limit)
        .then(|| rows.get(limit - 1))
        .flatten()
        .map(|(sequence, _)| {
            let query = wanted.next(*sequence, limit);
            format!("{}/v1/predictions?{query}", origin(&app.config, &headers))
        });
    let results: Vec<String> = rows
        .iter()
        .take(limit)
        .map(|(_, row)| {
            // What runs is further than its row.
            let live = (!row.status.is_terminal())
                .then(|| app.predictions.get(&row.owner, &row.id))
                .flatten();
            match live {
                Some(live) => shown(&app, &live.row(), None),
                None => shown(&app, row, None),
            }
        })
        .collect();
    let next = next.map_or_else(|| "null".to_owned(), |url| Value::from(url).to_string());
    let text = format!(r#"{{"next":{next},"previous":null,"results":[{}]}}"#, results.join(","));
    Ok(object(StatusCode::OK, text))
}

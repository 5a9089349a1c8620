//! What owners say of their models: making a model, changing its card, removing models and versions, its readme.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use serde::Deserialize;

use super::{body, json as reply, models};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::catalog::{LATEST, Model, Snapshot};
use crate::names::check_name;
use crate::predictions::request::invalid;
use crate::problem::Problem;
use crate::registry::Card;

/// Models of one owner, at most.
const MAX_MODELS: usize = 1000;

/// The longest text of a card, in bytes, its readme apart.
const MAX_TEXT: usize = 4096;
const MAX_README: usize = 256 << 10;

type Two = Result<Path<(String, String)>, PathRejection>;

/// Members that are not known are left alone: clients send some of their own.
#[derive(Deserialize)]
struct New {
    owner: String,
    name: String,
    visibility: Option<String>,
    hardware: Option<String>,
    #[serde(flatten)]
    card: Changes,
}

/// What a card may be changed to.
#[derive(Deserialize)]
struct Changes {
    description: Option<String>,
    readme: Option<String>,
    github_url: Option<String>,
    paper_url: Option<String>,
    weights_url: Option<String>,
    license_url: Option<String>,
    cover_image_url: Option<String>,
    /// Beyond today's API: a model may become public or private later.
    visibility: Option<String>,
}

impl Changes {
    fn apply(self, card: &mut Card) -> Result<(), Problem> {
        let url = |name: &str, value: Option<String>, into: &mut Option<String>| {
            let Some(url) = value else { return Ok(()) };
            let good = url.is_empty() || url.starts_with("https://") || url.starts_with("http://");
            if !good || url.len() > MAX_TEXT || url.chars().any(char::is_control) {
                return Err(invalid(name, "must be an http or https URL"));
            }
            *into = (!url.is_empty()).then_some(url);
            Ok(())
        };
        url("github_url", self.github_url, &mut card.github_url)?;
        url("paper_url", self.paper_url, &mut card.paper_url)?;
        url("weights_url", self.weights_url, &mut card.weights_url)?;
        url("license_url", self.license_url, &mut card.license_url)?;
        url("cover_image_url", self.cover_image_url, &mut card.cover_image_url)?;
        let text = |name: &str, value: Option<String>, most: usize, into: &mut Option<String>| {
            let Some(text) = value else { return Ok(()) };
            if text.len() > most {
                return Err(invalid(name, &format!("has at most {most} bytes")));
            }
            *into = (!text.is_empty()).then_some(text);
            Ok(())
        };
        text("description", self.description, MAX_TEXT, &mut card.description)?;
        text("readme", self.readme, MAX_README, &mut card.readme)
    }
}

fn is_private(visibility: &str) -> Result<bool, Problem> {
    match visibility {
        "public" => Ok(false),
        "private" => Ok(true),
        _ => Err(invalid("visibility", "is public or private")),
    }
}

/// `POST /v1/models`.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Publish)?;
    let new: New = body::parse(&app, &headers, sent).await?;
    check_name("owner", &new.owner).map_err(|why| invalid("owner", &why))?;
    check_name("name", &new.name).map_err(|why| invalid("name", &why))?;
    principal.require_publish(&new.owner)?;
    let private = is_private(
        new.visibility
            .as_deref()
            .ok_or_else(|| invalid("visibility", "is required"))?,
    )?;
    match new.hardware.as_deref() {
        None => return Err(invalid("hardware", "is required")),
        Some(sku) if !app.config.hardware.iter().any(|(known, _)| known == sku) => {
            return Err(invalid("hardware", "is none of GET /v1/hardware"));
        }
        Some(_) => {}
    }
    let name = format!("{}/{}", new.owner, new.name);
    if snapshot.model(&name).is_some() {
        return Err(Problem::conflict("a model of this name exists already"));
    }
    let prefix = format!("{}/", new.owner);
    if snapshot
        .models(None)
        .filter(|model| model.name.starts_with(&prefix))
        .count()
        >= MAX_MODELS
    {
        return Err(Problem::unprocessable(
            "too-many",
            format!("an owner has at most {MAX_MODELS} models"),
        ));
    }
    let mut card = Card::default();
    new.card.apply(&mut card)?;
    app.store
        .put_model(name.clone(), private, card)
        .await
        .map_err(Problem::internal)?;
    shown(&app, &headers, &name, StatusCode::CREATED).await
}

async fn shown(app: &Arc<App>, headers: &HeaderMap, name: &str, status: StatusCode) -> Result<Response<Body>, Problem> {
    let snapshot = app.catalog.now();
    let model = snapshot.model(name).ok_or_else(|| Problem::not_found("this model"))?;
    Ok(reply(status, &models::whole(app, headers, model).await?))
}

/// A model of the caller's to change.
fn own<'a>(snapshot: &'a Snapshot, principal: &Principal, owner: &str, name: &str) -> Result<&'a Arc<Model>, Problem> {
    let model = snapshot
        .visible(principal, &format!("{owner}/{name}"))
        .ok_or_else(|| Problem::not_found("this model"))?;
    principal.require_publish(owner)?;
    Ok(model)
}

/// `PATCH /v1/models/{owner}/{name}`.
pub(crate) async fn change(
    State(app): State<Arc<App>>,
    path: Two,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Publish)?;
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this model"))?;
    let model = own(&snapshot, &principal, &owner, &name)?;
    let changes: Changes = body::parse(&app, &headers, sent).await?;
    let private = match changes.visibility.as_deref() {
        None => model.private,
        Some(visibility) => is_private(visibility)?,
    };
    let mut card = (*model.card).clone();
    changes.apply(&mut card)?;
    let name = model.name.to_string();
    app.store
        .put_model(name.clone(), private, card)
        .await
        .map_err(Problem::internal)?;
    shown(&app, &headers, &name, StatusCode::OK).await
}

/// `DELETE /v1/models/{owner}/{name}`: one without versions.
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    path: Two,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Publish)?;
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this model"))?;
    let model = own(&snapshot, &principal, &owner, &name)?;
    if model.len() > 0 {
        return Err(Problem::conflict(
            "this model has versions, and versions do not vanish with it: delete each of them first",
        ));
    }
    app.store
        .remove_model(model.name.to_string())
        .await
        .map_err(Problem::internal)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /v1/models/{owner}/{name}/versions/{version}`: one that nobody relies on.
pub(crate) async fn remove_version(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String, String)>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Publish)?;
    let Path((owner, name, reference)) = path.map_err(|_| Problem::not_found("this version"))?;
    let model = own(&snapshot, &principal, &owner, &name)?;
    let id = model
        .resolve(Some(&reference))
        .map(|version| version.id)
        .ok_or_else(|| Problem::not_found("this version"))?;
    let number = model
        .resolve(Some(&id.to_string()))
        .map(|version| version.number.to_string());
    let pins: Vec<&str> = model
        .aliases_of(id)
        .into_iter()
        .filter(|alias| *alias != LATEST)
        .collect();
    // The alias that a publish makes of the version's own number pins nothing.
    if let Some(alias) = pins.iter().find(|alias| Some(**alias) != number.as_deref()) {
        return Err(Problem::conflict(format!(
            "the alias `{alias}` points at this version: move it first"
        )));
    }
    if let Some(deployment) = snapshot
        .deployments()
        .find(|d| d.version == id && *d.model == *model.name)
    {
        let detail = if deployment.owner == *principal.owner() {
            format!(
                "the deployment `{}/{}` runs this version: change it first",
                deployment.owner, deployment.name
            )
        } else {
            "somebody's deployment runs this version".to_owned()
        };
        return Err(Problem::conflict(detail));
    }
    let model = model.name.to_string();
    if app
        .store
        .run_by_others(model.clone(), id)
        .await
        .map_err(Problem::internal)?
    {
        return Err(Problem::conflict("others have run this version, so it stays for them"));
    }
    app.store.remove_version(model, id).await.map_err(Problem::internal)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `GET /v1/models/{owner}/{name}/readme`: the owner's, else the latest version's model card.
pub(crate) async fn readme(
    State(app): State<Arc<App>>,
    path: Two,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    let missing = || Problem::not_found("a readme of this model");
    let Path((owner, name)) = path.map_err(|_| missing())?;
    let model = snapshot
        .visible(&principal, &format!("{owner}/{name}"))
        .ok_or_else(missing)?;
    let text = match (&model.card.readme, model.resolve(None)) {
        (Some(readme), _) => readme.clone(),
        (None, Some(version)) => {
            let stored = app.store.version(version.id).await.map_err(Problem::internal)?;
            let stored = stored.ok_or_else(missing)?;
            models::readme(&app, &stored.manifest).await.ok_or_else(missing)?
        }
        (None, None) => return Err(missing()),
    };
    Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}

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
use crate::catalog::{Model, Snapshot};
use crate::names::check_name;
use crate::predictions::flush;
use crate::predictions::request::invalid;
use crate::problem::Problem;
use crate::registry::Card;
use crate::store::registry::{Creation, MAX_MODELS, Reason, Removal};

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

/// Finds a member of a card.
type Member = fn(&mut Card) -> &mut Option<String>;

/// A member, and what it becomes; nothing clears it.
type Edit = (Member, Option<String>);

impl Changes {
    /// What is to change, checked.
    fn checked(self) -> Result<Vec<Edit>, Problem> {
        let urls: [(&str, Option<String>, Member); 5] = [
            ("github_url", self.github_url, |card| &mut card.github_url),
            ("paper_url", self.paper_url, |card| &mut card.paper_url),
            ("weights_url", self.weights_url, |card| &mut card.weights_url),
            ("license_url", self.license_url, |card| &mut card.license_url),
            ("cover_image_url", self.cover_image_url, |card| {
                &mut card.cover_image_url
            }),
        ];
        let mut edits: Vec<Edit> = Vec::new();
        for (name, value, member) in urls {
            let Some(url) = value else { continue };
            let good = url.is_empty() || url.starts_with("https://") || url.starts_with("http://");
            if !good || url.len() > MAX_TEXT || url.chars().any(char::is_control) {
                return Err(invalid(name, "must be an http or https URL"));
            }
            edits.push((member, (!url.is_empty()).then_some(url)));
        }
        let texts: [(&str, Option<String>, usize, Member); 2] = [
            ("description", self.description, MAX_TEXT, |card| &mut card.description),
            ("readme", self.readme, MAX_README, |card| &mut card.readme),
        ];
        for (name, value, most, member) in texts {
            let Some(text) = value else { continue };
            if text.len() > most {
                return Err(invalid(name, &format!("has at most {most} bytes")));
            }
            edits.push((member, (!text.is_empty()).then_some(text)));
        }
        Ok(edits)
    }
}

fn apply(edits: Vec<Edit>, card: &mut Card) {
    for (member, value) in edits {
        *member(card) = value;
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
    let (principal, _) = app.authorize(&headers, Scope::Publish)?;
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
    let mut card = Card::default();
    apply(new.card.checked()?, &mut card);
    let created = app.store.create_model(name.clone(), private, card).await;
    match created.map_err(Problem::internal)? {
        Creation::Made => {}
        Creation::TooMany => return Err(Problem::unprocessable("too-many", too_many_models())),
        Creation::Conflict => return Err(Problem::conflict("a model of this name exists already")),
    }
    shown(&app, &headers, &name, StatusCode::CREATED).await
}

/// Why an owner gets no further model.
pub(crate) fn too_many_models() -> String {
    format!("an owner has at most {MAX_MODELS} models")
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
    let private = changes.visibility.as_deref().map(is_private).transpose()?;
    let edits = changes.checked()?;
    let name = model.name.to_string();
    let change = move |card: &mut Card| apply(edits, card);
    let changed = app.store.change_model(name.clone(), private, change).await;
    if !changed.map_err(Problem::internal)? {
        return Err(Problem::not_found("this model"));
    }
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
    let removal = app.store.remove_model(model.name.to_string()).await;
    removed(removal.map_err(Problem::internal)?, &principal, "this model")?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What is told of a removal.
fn removed(removal: Removal, principal: &Principal, what: &str) -> Result<(), Problem> {
    let reason = match removal {
        Removal::Gone => return Ok(()),
        Removal::Missing => return Err(Problem::not_found(what)),
        Removal::Kept(reason) => reason,
    };
    Err(Problem::conflict(match reason {
        Reason::Versions => {
            "this model has versions, and versions do not vanish with it: delete each of them first".to_owned()
        }
        Reason::Alias(alias) => format!("the alias `{alias}` points at this version: move it first"),
        Reason::Deployment { owner, name } if *owner == **principal.owner() => {
            format!("the deployment `{owner}/{name}` runs this version: change it first")
        }
        Reason::Deployment { .. } => "somebody's deployment runs this version".to_owned(),
        Reason::Others => "others have run this version, so it stays for them".to_owned(),
    }))
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
    let version = model
        .resolve(Some(&reference))
        .ok_or_else(|| Problem::not_found("this version"))?;
    // Calls that leave no row of their own are counted a moment later.
    flush(&app).await;
    let removal = app.store.remove_version(model.name.to_string(), version.id).await;
    removed(removal.map_err(Problem::internal)?, &principal, "this version")?;
    app.shelf.forget(version);
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

//! Finding models: `QUERY /v1/models`, whose body is the text, and `GET /v1/search`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use serde::Deserialize;
use serde_json::json;

use super::{json as reply, models};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::catalog::{Model, Snapshot};
use crate::problem::Problem;
use crate::registry::score;

/// The longest text of a body, in bytes.
const MAX_QUERY: usize = 4096;

/// The longest text in a URL, in characters: however it is written, it leaves room in a request's head.
const MAX_TEXT: usize = 1000;

/// Models that a search shows.
const PAGE: usize = 100;

fn ranked(snapshot: &Snapshot, principal: &Principal, text: &str) -> Vec<(f64, Arc<Model>)> {
    let mut found: Vec<_> = snapshot
        .models(None)
        .filter(|model| model.is_visible_to(principal))
        .map(|model| (score(text, &model.name, model.description()), Arc::clone(model)))
        .filter(|(score, _)| *score > 0.0)
        .collect();
    found.sort_by(|(a, x), (b, y)| b.total_cmp(a).then_with(|| x.name.cmp(&y.name)));
    found
}

/// `QUERY /v1/models`: the body is the text, as it is or as a JSON string, whatever its content type says.
pub(crate) async fn query(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Response<Body>, Problem> {
    let (parts, sent) = request.into_parts();
    let (principal, snapshot) = app.authorize(&parts.headers, Scope::Read)?;
    let read = tokio::time::timeout(app.config.read_timeout, Limited::new(sent, MAX_QUERY).collect());
    let bytes = match read.await {
        Err(_) => return Err(Problem::slow_body()),
        Ok(Err(_)) => return Err(Problem::too_large(MAX_QUERY as u64)),
        Ok(Ok(body)) => body.to_bytes(),
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let text = serde_json::from_str::<String>(&text).unwrap_or(text);
    let found = ranked(&snapshot, &principal, &text);
    let models: Vec<_> = found.into_iter().take(PAGE).map(|(_, model)| model).collect();
    let results = models::objects(&app, &parts.headers, &models).await?;
    Ok(reply(
        StatusCode::OK,
        &json!({"next": null, "previous": null, "results": results}),
    ))
}

/// What a search is asked for.
#[derive(Deserialize)]
pub(crate) struct Wanted {
    query: Option<String>,
    limit: Option<usize>,
}

/// `GET /v1/search?query=…&limit=…`: models and collections.
pub(crate) async fn search(
    State(app): State<Arc<App>>,
    query: Result<Query<Wanted>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    let Query(wanted) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let text = wanted.query.filter(|text| !text.trim().is_empty());
    let text = text.ok_or_else(|| Problem::bad_request("Query parameter \"query\" is required"))?;
    let limit = wanted.limit.unwrap_or(20);
    if text.chars().count() > MAX_TEXT || !(1..=50).contains(&limit) {
        return Err(Problem::bad_request(format!(
            "`limit` is 1 to 50, and `query` has at most {MAX_TEXT} characters"
        )));
    }
    let (scores, found): (Vec<f64>, Vec<_>) = ranked(&snapshot, &principal, &text).into_iter().take(limit).unzip();
    let shown = models::objects(&app, &headers, &found).await?;
    let models: Vec<_> = shown
        .into_iter()
        .zip(scores)
        .map(|(model, score)| {
            let description = model["description"].clone();
            json!({"model": model, "metadata": {"generated_description": description, "tags": [], "score": score}})
        })
        .collect();
    let collections: Vec<_> = snapshot
        .collections()
        .filter(|collection| {
            score(
                &text,
                &format!("{} {}", collection.name, collection.slug),
                &collection.description,
            ) > 0.0
        })
        .take(limit)
        .map(|collection| {
            let models = collection.models.iter();
            let visible: Vec<_> = models
                .filter(|name| snapshot.visible(&principal, name).is_some())
                .collect();
            json!({"name": collection.name, "slug": collection.slug, "description": collection.description,
                "models": visible})
        })
        .collect();
    let body = json!({"query": text, "models": models, "collections": collections, "pages": []});
    Ok(reply(StatusCode::OK, &body))
}

//! Tokens: made, listed and revoked by admins.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use serde::Deserialize;
use serde_json::{Value, json};

use super::models::{parse_timestamp, timestamp};
use super::{body, json as reply};
use crate::app::App;
use crate::auth::{self, Scope, Scopes, Token};
use crate::ids;
use crate::names::check_name;
use crate::problem::Problem;
use crate::store::now_ms;

/// Tokens that a server keeps; all are held in memory.
const MAX_TOKENS: usize = 100_000;

/// The longest label, in bytes.
const MAX_LABEL: usize = 200;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewToken {
    owner: String,
    #[serde(default)]
    label: String,
    scopes: Vec<Scope>,
    /// From when on it opens nothing, such as `2027-01-01T00:00:00Z`.
    expires_at: Option<String>,
}

/// Makes a token; the only reply that ever shows its secret.
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Admin)?;
    let new: NewToken = body::parse(&app, &headers, sent).await?;
    let invalid = |why: String| Problem::unprocessable("invalid-token", why);
    check_name("owner", &new.owner).map_err(invalid)?;
    if new.label.len() > MAX_LABEL || new.label.chars().any(char::is_control) {
        return Err(invalid(format!(
            "a label has at most {MAX_LABEL} bytes and no control characters"
        )));
    }
    if new.scopes.is_empty() {
        return Err(invalid(
            "a token needs at least one scope: read, predict, publish or admin".to_owned(),
        ));
    }
    if snapshot.tokens().count() >= MAX_TOKENS {
        return Err(invalid(format!("there are {MAX_TOKENS} tokens already: revoke some")));
    }
    let expires_at = match &new.expires_at {
        None => None,
        Some(text) => Some(
            parse_timestamp(text)
                .filter(|at| *at > now_ms())
                .ok_or_else(|| invalid("`expires_at` is a time to come, such as 2027-01-01T00:00:00Z".to_owned()))?,
        ),
    };
    let secret = auth::new_secret().map_err(Problem::internal)?;
    let id = ids::random().to_str().map_err(Problem::internal)?.to_owned();
    let token = Token {
        id,
        hash: auth::hash(&secret),
        owner: new.owner.into(),
        label: new.label,
        scopes: Scopes::of(&new.scopes),
        created_at: now_ms(),
        expires_at,
        last_used_at: Arc::default(),
    };
    let mut shown = show(&token);
    shown["token"] = secret.into();
    app.store.put_token(token).await.map_err(Problem::internal)?;
    Ok(reply(StatusCode::CREATED, &shown))
}

/// All tokens, without their secrets.
pub(crate) async fn list(State(app): State<Arc<App>>, headers: HeaderMap) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Admin)?;
    let mut tokens: Vec<_> = snapshot.tokens().collect();
    tokens.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
    let results: Vec<Value> = tokens.into_iter().map(|token| show(token)).collect();
    Ok(reply(StatusCode::OK, &json!({"results": results})))
}

/// Revokes a token; from the reply on it opens nothing.
pub(crate) async fn revoke(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Admin)?;
    let Path(id) = path.map_err(|_| Problem::not_found("this token"))?;
    if !snapshot.tokens().any(|token| token.id == id) {
        return Err(Problem::not_found("this token"));
    }
    app.store.remove_token(id).await.map_err(Problem::internal)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn show(token: &Token) -> Value {
    json!({
        "id": token.id,
        "owner": &*token.owner,
        "label": token.label,
        "scopes": token.scopes.list(),
        "created_at": timestamp(token.created_at),
        "expires_at": token.expires_at.map(timestamp),
        "last_used_at": Some(token.last_used_at.load(std::sync::atomic::Ordering::Relaxed)).filter(|at| *at > 0).map(timestamp),
    })
}

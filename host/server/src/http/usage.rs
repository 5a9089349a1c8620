//! What callers used and what they may spend.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, json as reply, parse_timestamp, timestamp};
use crate::app::App;
use crate::auth::Scope;
use crate::names::check_name;
use crate::predictions::billing::Limit;
use crate::predictions::flush;
use crate::problem::Problem;
use crate::store::{ledger, now_ms};

const DAY_MS: i64 = 86_400_000;

/// Days of a report that does not say from when.
const DAYS: i64 = 30;

/// What a report may be asked for.
#[derive(Deserialize)]
pub(crate) struct Span {
    from: Option<String>,
    to: Option<String>,
}

/// `GET /v1/usage?from=2026-11-01&to=2026-11-30`: what the caller's owner used, by day, version and token.
pub(crate) async fn report(
    State(app): State<Arc<App>>,
    query: Result<Query<Span>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, _) = app.authorize(&headers, Scope::Read)?;
    let Query(span) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let today = now_ms().div_euclid(DAY_MS);
    let day = |name: &str, text: Option<String>, default: i64| match text {
        None => Ok(default),
        Some(text) => {
            let at = parse_timestamp(&text).or_else(|| parse_timestamp(&format!("{text}T00:00:00Z")));
            at.map(|ms| ms.div_euclid(DAY_MS))
                .ok_or_else(|| Problem::bad_request(format!("`{name}` is a day such as 2026-11-23")))
        }
    };
    let to = day("to", span.to, today)?;
    let from = day("from", span.from, to - DAYS + 1)?;
    flush(&app).await;
    let owner = Arc::clone(principal.owner());
    let of = Arc::clone(&owner);
    let uses = app
        .store
        .read(move |c| ledger::usage(c, &of, from, to))
        .await
        .map_err(Problem::internal)?;
    let price = |cost: u64| cost as f64 / 1e9;
    let sum = |part: fn(&ledger::Use) -> u64| uses.iter().map(part).fold(0_u64, u64::saturating_add);
    let results: Vec<Value> = uses
        .iter()
        .map(|used| {
            json!({
                "date": date(used.day),
                "model": &*used.model,
                "version": used.version,
                "token": used.token,
                "predictions": used.predictions,
                "cached": used.cached,
                "compute_ms": used.compute_us as f64 / 1e3,
                "billed_ms": used.billed_ms,
                "cost": price(used.cost),
            })
        })
        .collect();
    let (limit, spent_day, spent_month) = app.predictions.spend.of(&owner, now_ms());
    let body = json!({
        "owner": &*owner,
        "from": date(from),
        "to": date(to),
        "total": {
            "predictions": sum(|used| used.predictions),
            "cached": sum(|used| used.cached),
            "billed_ms": sum(|used| used.billed_ms),
            "cost": price(sum(|used| used.cost)),
        },
        "spend": {
            "day": price(spent_day),
            "month": price(spent_month),
            "day_limit": limit.day.map(price),
            "month_limit": limit.month.map(price),
        },
        "price_per_second": price(app.config.price_per_ms.saturating_mul(1000)),
        "results": results,
    });
    Ok(reply(StatusCode::OK, &body))
}

fn date(day: i64) -> String {
    let mut text = timestamp(day.saturating_mul(DAY_MS));
    text.truncate(10);
    text
}

/// What an owner may spend, in the currency's unit; nothing is no limit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewLimit {
    #[serde(default)]
    day: Option<f64>,
    #[serde(default)]
    month: Option<f64>,
}

/// `PUT /v1/spend-limits/{owner}`, for admins.
pub(crate) async fn limit(
    State(app): State<Arc<App>>,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    sent: Body,
) -> Result<Response<Body>, Problem> {
    app.authorize(&headers, Scope::Admin)?;
    let Path(owner) = path.map_err(|_| Problem::not_found("this owner"))?;
    check_name("owner", &owner).map_err(|why| Problem::unprocessable("invalid-owner", why))?;
    let new: NewLimit = body::parse(&app, &headers, sent).await?;
    let amount = |name: &str, value: Option<f64>| match value {
        None => Ok(None),
        Some(units) if (0.0..=1e9).contains(&units) => Ok(Some((units * 1e9).round() as u64)),
        Some(_) => Err(Problem::unprocessable(
            "invalid-limit",
            format!("`{name}` is an amount from 0 to a billion, or null for no limit"),
        )),
    };
    let (day, month) = (amount("day", new.day)?, amount("month", new.month)?);
    let now = now_ms();
    let of = owner.clone();
    app.store
        .write(move |c| ledger::set_limit(c, &of, day, month, now))
        .await
        .map_err(Problem::internal)?;
    app.predictions
        .spend
        .limit(&owner.as_str().into(), now, Limit { day, month });
    Ok(reply(
        StatusCode::OK,
        &json!({"owner": owner, "day": new.day, "month": new.month}),
    ))
}

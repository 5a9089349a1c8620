//! Looking at what is published: models, their versions, a version as an OpenAPI document.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse as _;
use maquette_package::version::VersionManifest;
use serde::Deserialize;
use serde_json::{Value, json};

use super::origin::origin;
use super::{examples, json as reply};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::catalog::{Model, Snapshot, Version};
use crate::engine::Prepared;
use crate::grant::grant;
use crate::names::VersionId;
use crate::problem::{Problem, shown};
use crate::schema;
use crate::store::StoredVersion;

/// Results on a page, at most and if nothing else is asked for.
const PAGE: usize = 100;

/// What a list may be asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    cursor: Option<String>,
    limit: Option<usize>,
}

type Pages = Result<Query<Page>, QueryRejection>;
type Two = Result<Path<(String, String)>, PathRejection>;
type Three = Result<Path<(String, String, String)>, PathRejection>;

impl Page {
    pub(crate) fn read(query: Pages) -> Result<(usize, Option<String>), Problem> {
        let Query(page) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
        Self::of(page.cursor, page.limit)
    }

    /// How many, and behind what.
    fn of(cursor: Option<String>, limit: Option<usize>) -> Result<(usize, Option<String>), Problem> {
        let limit = limit.unwrap_or(PAGE);
        if !(1..=PAGE).contains(&limit) {
            return Err(Problem::bad_request(format!("`limit` must be 1 to {PAGE}")));
        }
        let cursor = cursor.map(|cursor| {
            let text = hex::decode(&cursor)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            text.ok_or_else(|| Problem::bad_request("`cursor` is not one that this server gave out"))
        });
        Ok((limit, cursor.transpose()?))
    }
}

/// One page of a list, with an absolute URL of the next.
pub(crate) fn page(app: &App, headers: &HeaderMap, path: &str, limit: usize, mut found: Vec<(String, Value)>) -> Value {
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(cursor, _)| {
        let mut url = origin(&app.config, headers);
        let more = if path.contains('?') { '&' } else { '?' };
        let _ = write!(url, "{path}{more}cursor={}&limit={limit}", hex::encode(cursor));
        url
    });
    let results: Vec<Value> = found.into_iter().map(|(_, value)| value).collect();
    json!({"next": next, "previous": null, "results": results})
}

/// How models are sorted; names break ties.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Order {
    cursor: Option<String>,
    limit: Option<usize>,
    sort_by: Option<String>,
    sort_direction: Option<String>,
}

/// Models that the caller may know of: the latest published first, if nothing else is asked for.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    query: Result<Query<Order>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    let Query(order) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
    let by_creation = match order.sort_by.as_deref() {
        None | Some("latest_version_created_at") => false,
        Some("model_created_at") => true,
        Some(_) => {
            let known = "`sort_by` is model_created_at or latest_version_created_at";
            return Err(Problem::bad_request(known));
        }
    };
    let ascending = match order.sort_direction.as_deref() {
        None | Some("desc") => false,
        Some("asc") => true,
        Some(_) => return Err(Problem::bad_request("`sort_direction` is asc or desc")),
    };
    let (limit, after) = Page::of(order.cursor, order.limit)?;
    let mut models: Vec<_> = snapshot
        .models(None)
        .filter(|model| model.is_visible_to(&principal))
        .collect();
    let time = |model: &Model| match (by_creation, model.newest()) {
        (false, Some(version)) => version.created_at,
        _ => model.created_at,
    };
    models.sort_by(|a, b| {
        let times = time(a).cmp(&time(b));
        let times = if ascending { times } else { times.reverse() };
        times.then_with(|| a.name.cmp(&b.name))
    });
    // The cursor is the last name of the page before; if it is gone since, the list ends.
    let start = match after {
        None => 0,
        Some(name) => models
            .iter()
            .position(|model| *model.name == *name)
            .map_or(models.len(), |at| at + 1),
    };
    let page: Vec<_> = models.into_iter().skip(start).take(limit + 1).cloned().collect();
    let mut path = "/v1/models".to_owned();
    if let Some(by) = &order.sort_by {
        let _ = write!(path, "?sort_by={by}");
    }
    if let Some(direction) = &order.sort_direction {
        let _ = write!(
            path,
            "{}sort_direction={direction}",
            if path.contains('?') { '&' } else { '?' }
        );
    }
    let shown = objects(&app, &headers, &page).await?;
    let found = page.iter().map(|model| model.name.to_string()).zip(shown).collect();
    Ok(reply(StatusCode::OK, &self::page(&app, &headers, &path, limit, found)))
}

/// Models as clients see them, each with its latest version.
pub(crate) async fn objects(app: &App, headers: &HeaderMap, models: &[Arc<Model>]) -> Result<Vec<Value>, Problem> {
    let latest = models.iter().filter_map(|model| model.resolve(None));
    let prepared = app.store.prepared(latest.map(|version| version.id).collect()).await;
    let prepared = prepared.map_err(Problem::internal)?;
    let origin = origin(&app.config, headers);
    Ok(models
        .iter()
        .map(|model| {
            let latest = model
                .resolve(None)
                .map(|version| version_object(model, version, prepared.get(&version.id)));
            summary(&origin, model, latest)
        })
        .collect())
}

fn summary(origin: &str, model: &Model, latest: Option<Value>) -> Value {
    let (owner, name) = model.name.split_once('/').unwrap_or(("", &model.name));
    let card = &model.card;
    json!({
        "url": format!("{origin}/v1/models/{}", model.name),
        "owner": owner,
        "name": name,
        "description": model.description(),
        "visibility": if model.private { "private" } else { "public" },
        "is_official": false,
        "github_url": card.github_url,
        "paper_url": card.paper_url,
        "weights_url": card.weights_url,
        "license_url": card.license_url,
        "cover_image_url": card.cover_image_url,
        "run_count": model.runs.load(std::sync::atomic::Ordering::Relaxed),
        "default_example": null,
        "latest_version": latest,
        "created_at": timestamp(model.created_at),
        "versions": model.len(),
    })
}

/// A version as clients see it. `cog_version` is a tag that they do not take for a release of Cog.
fn version_object(model: &Model, version: &Version, prepared: Option<&Prepared>) -> Value {
    let id = version.id.to_string();
    let (input, output) = match prepared {
        Some(prepared) => (prepared.description.input.clone(), prepared.description.output.clone()),
        None => (json!({"type": "object"}), json!({})),
    };
    json!({
        "id": id,
        "created_at": timestamp(version.created_at),
        "cog_version": concat!("maquette-", env!("CARGO_PKG_VERSION")),
        "openapi_schema": schema::openapi(&model.name, &id, &input, &output),
        "version": &*version.number,
        "aliases": model.aliases_of(version.id),
        "quarantine": version.health.quarantine().map(|why| shown(&why)),
    })
}

fn find<'a>(snapshot: &'a Snapshot, principal: &Principal, owner: &str, name: &str) -> Result<&'a Arc<Model>, Problem> {
    snapshot
        .visible(principal, &format!("{owner}/{name}"))
        .ok_or_else(|| Problem::not_found("this model"))
}

/// One model, with its aliases and its first example.
pub(crate) async fn model(
    State(app): State<Arc<App>>,
    path: Two,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this model"))?;
    let model = Arc::clone(find(&snapshot, &principal, &owner, &name)?);
    Ok(reply(StatusCode::OK, &whole(&app, &headers, &model).await?))
}

/// A model with all there is to say of it.
pub(crate) async fn whole(app: &Arc<App>, headers: &HeaderMap, model: &Arc<Model>) -> Result<Value, Problem> {
    let shown = objects(app, headers, std::slice::from_ref(model)).await?;
    let mut body = shown.into_iter().next().unwrap_or_default();
    body["aliases"] = model
        .aliases()
        .map(|(alias, id)| (alias.to_owned(), json!(id)))
        .collect();
    let examples = examples::of(app, headers, model, 1).await?;
    body["default_example"] = examples.into_iter().next().unwrap_or(Value::Null);
    Ok(body)
}

/// A model's versions, newest first.
pub(crate) async fn versions(
    State(app): State<Arc<App>>,
    path: Two,
    query: Pages,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (principal, snapshot) = app.authorize(&headers, Scope::Read)?;
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this model"))?;
    let (limit, after) = Page::read(query)?;
    let model = find(&snapshot, &principal, &owner, &name)?;
    let after = match after {
        None => None,
        Some(text) => {
            Some(VersionId::parse(&text).ok_or_else(|| Problem::bad_request("`cursor` is not one of this list"))?)
        }
    };
    let versions: Vec<_> = model.newest_first(after.as_ref()).take(limit + 1).collect();
    let prepared = app
        .store
        .prepared(versions.iter().map(|version| version.id).collect())
        .await;
    let prepared = prepared.map_err(Problem::internal)?;
    let found = versions
        .into_iter()
        .map(|version| {
            (
                version.id.to_string(),
                version_object(model, version, prepared.get(&version.id)),
            )
        })
        .collect();
    let path = format!("/v1/models/{}/versions", model.name);
    Ok(reply(StatusCode::OK, &page(&app, &headers, &path, limit, found)))
}

/// What is on disk about a version, with its record in the catalog.
async fn stored(
    app: &App,
    path: Three,
    headers: &HeaderMap,
) -> Result<(Arc<Model>, Arc<Version>, StoredVersion, Prepared), Problem> {
    let (principal, snapshot) = app.authorize(headers, Scope::Read)?;
    let Path((owner, name, reference)) = path.map_err(|_| Problem::not_found("this version"))?;
    let model = find(&snapshot, &principal, &owner, &name)?;
    let version = model
        .resolve(Some(&reference))
        .ok_or_else(|| Problem::not_found("this version"))?;
    let stored = app.store.version(version.id).await.map_err(Problem::internal)?;
    let stored = stored.ok_or_else(|| Problem::internal("a version of the catalog is not in the database"))?;
    let prepared = serde_json::from_str(&stored.prepared).map_err(Problem::internal)?;
    Ok((Arc::clone(model), Arc::clone(version), stored, prepared))
}

/// One version, with its schemas and its manifest.
pub(crate) async fn version(
    State(app): State<Arc<App>>,
    path: Three,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (model, version, stored, prepared) = stored(&app, path, &headers).await?;
    let readme = readme(&app, &stored.manifest).await;
    let asked = VersionManifest::from_json(&stored.manifest).map_err(Problem::internal)?;
    let granted: Option<Value> = stored
        .granted
        .as_deref()
        .and_then(|json| serde_json::from_str(json).ok());
    let manifest: Value = serde_json::from_str(&stored.manifest).map_err(Problem::internal)?;
    let mut body = version_object(&model, &version, Some(&prepared));
    let url = format!("/v1/models/{}/versions/{}", model.name, version.id);
    let more = json!({
        "model": &*model.name,
        "url": url,
        "run": format!("{url}/run"),
        "openapi": format!("{url}/openapi.json"),
        "sdk": prepared.description.sdk,
        "input_schema": prepared.description.input,
        "output_schema": prepared.description.output,
        "load": prepared.load,
        "readme": readme,
        "imports": prepared.imports,
        "grant": grant(&asked.limits, &app.offer),
        "granted_at_publish": granted,
        "manifest": manifest,
    });
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    Ok(reply(StatusCode::OK, &body))
}

/// The most of a model card that travels with its version.
const MAX_README: u64 = 256 << 10;

/// The version's model card, if it has one of a sensible size.
pub(crate) async fn readme(app: &Arc<App>, manifest: &str) -> Option<String> {
    let blob = VersionManifest::from_json(manifest).ok()?.readme?;
    if blob.size > MAX_README {
        return None;
    }
    let app = Arc::clone(app);
    tokio::task::spawn_blocking(move || String::from_utf8(app.blobs.read(&blob.sha256).ok()?).ok())
        .await
        .ok()?
}

/// One version as an API of its own.
pub(crate) async fn openapi(State(app): State<Arc<App>>, path: Three, headers: HeaderMap) -> Response<Body> {
    match stored(&app, path, &headers).await {
        Ok((model, version, _, prepared)) => {
            let description = &prepared.description;
            let id = version.id.to_string();
            reply(
                StatusCode::OK,
                &schema::openapi(&model.name, &id, &description.input, &description.output),
            )
        }
        Err(problem) => problem.into_response(),
    }
}

/// Unix milliseconds as RFC 3339 in UTC, such as `2026-11-23T15:04:05.678Z`.
pub(crate) fn timestamp(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    // Howard Hinnant's days-to-civil: years begin in March, eras of 400 years all have as many days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1000 % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        of_day % 1000
    )
}

/// Reads RFC 3339, such as `2026-11-23T15:04:05.678Z` or with an offset, as Unix milliseconds.
pub(crate) fn parse_timestamp(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let shape = |at: usize, expected: &[u8]| bytes.get(at).is_some_and(|b| expected.contains(b));
    if !(shape(4, b"-") && shape(7, b"-") && shape(10, b"Tt ") && shape(13, b":") && shape(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut ms = 0;
    if let Some(fraction) = rest.strip_prefix('.') {
        let end = fraction.find(|c: char| !c.is_ascii_digit())?;
        let digits = format!("{:0<3}", fraction.get(..end.min(3))?);
        ms = digits.parse::<i64>().ok().filter(|_| end > 0)?;
        rest = fraction.get(end..)?;
    }
    let offset = match rest {
        "Z" | "z" => 0,
        // In a query a plus that was not encoded arrives as a space.
        _ if rest.len() == 6 && rest.is_ascii() && rest.as_bytes()[3] == b':' => {
            let hours: i64 = rest[1..3].parse().ok().filter(|h| (0..24).contains(h))?;
            let minutes: i64 = rest[4..6].parse().ok().filter(|m| (0..60).contains(m))?;
            let sign = match rest.as_bytes()[0] {
                b'+' | b' ' => 1,
                b'-' => -1,
                _ => return None,
            };
            sign * (hours * 60 + minutes)
        }
        _ => return None,
    };
    // The inverse of `timestamp`: days from a civil date.
    let shifted = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let days = era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute - offset) * 60 + second) * 1000 + ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_rfc_3339() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_446_245_678, "2026-11-23T15:04:05.678Z"),
            (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(timestamp(ms), text);
            assert_eq!(parse_timestamp(text), Some(ms));
        }
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1970-01-01T01:00:00 01:00", 0),
            ("1969-12-31T19:00:00.5-05:00", 500),
            ("1970-01-01t00:00:00.0009999z", 0),
        ] {
            assert_eq!(parse_timestamp(text), Some(ms), "{text}");
        }
        for bad in [
            "",
            "now",
            "1970-01-01",
            "1970-13-01T00:00:00Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+99:00",
            "+970-01-01T00:00:00Z",
            "1970-01-01T00:00:00é0:00",
        ] {
            assert_eq!(parse_timestamp(bad), None, "{bad}");
        }
    }
}

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

use super::json as reply;
use super::origin::origin;
use crate::app::App;
use crate::auth::Scope;
use crate::catalog::{Model, Snapshot, Version};
use crate::engine::Prepared;
use crate::names::VersionId;
use crate::problem::Problem;
use crate::schema;

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
    fn read(query: Pages) -> Result<(usize, Option<String>), Problem> {
        let Query(page) = query.map_err(|e| Problem::bad_request(e.body_text()))?;
        let limit = page.limit.unwrap_or(PAGE);
        if !(1..=PAGE).contains(&limit) {
            return Err(Problem::bad_request(format!("`limit` must be 1 to {PAGE}")));
        }
        let cursor = page.cursor.map(|cursor| {
            let text = hex::decode(&cursor)
                .ok()
                .and_then(|bytes| String::from_utf8(bytes).ok());
            text.ok_or_else(|| Problem::bad_request("`cursor` is not one that this server gave out"))
        });
        Ok((limit, cursor.transpose()?))
    }
}

/// One page of a list, with an absolute URL of the next.
fn page(app: &App, headers: &HeaderMap, path: &str, limit: usize, mut found: Vec<(String, Value)>) -> Value {
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|(cursor, _)| {
        let mut url = origin(&app.config, headers);
        let _ = write!(url, "{path}?cursor={}&limit={limit}", hex::encode(cursor));
        url
    });
    let results: Vec<Value> = found.into_iter().map(|(_, value)| value).collect();
    json!({"next": next, "previous": null, "results": results})
}

/// Models by name.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    query: Pages,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Read)?;
    let (limit, after) = Page::read(query)?;
    let models = snapshot.models(after.as_deref()).take(limit + 1);
    let found = models.map(|model| (model.name.to_string(), summary(model))).collect();
    Ok(reply(StatusCode::OK, &page(&app, &headers, "/v1/models", limit, found)))
}

fn summary(model: &Model) -> Value {
    let (owner, name) = model.name.split_once('/').unwrap_or(("", &model.name));
    let latest = model.resolve(None);
    json!({
        "owner": owner,
        "name": name,
        "url": format!("/v1/models/{}", model.name),
        "description": &*model.description,
        "created_at": timestamp(model.created_at),
        "latest_version": latest.map(|version| line(model, version)),
        "versions": model.len(),
    })
}

fn line(model: &Model, version: &Version) -> Value {
    json!({
        "id": version.id,
        "version": &*version.number,
        "created_at": timestamp(version.created_at),
        "aliases": model.aliases_of(version.id),
    })
}

fn find<'a>(snapshot: &'a Snapshot, owner: &str, name: &str) -> Result<&'a Arc<Model>, Problem> {
    snapshot
        .model(&format!("{owner}/{name}"))
        .ok_or_else(|| Problem::not_found("this model"))
}

/// One model, with its aliases.
pub(crate) async fn model(
    State(app): State<Arc<App>>,
    path: Two,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Read)?;
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this model"))?;
    let model = find(&snapshot, &owner, &name)?;
    let mut body = summary(model);
    body["aliases"] = model
        .aliases()
        .map(|(alias, id)| (alias.to_owned(), json!(id)))
        .collect();
    Ok(reply(StatusCode::OK, &body))
}

/// A model's versions, newest first.
pub(crate) async fn versions(
    State(app): State<Arc<App>>,
    path: Two,
    query: Pages,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (_, snapshot) = app.authorize(&headers, Scope::Read)?;
    let Path((owner, name)) = path.map_err(|_| Problem::not_found("this model"))?;
    let (limit, after) = Page::read(query)?;
    let model = find(&snapshot, &owner, &name)?;
    let after = match after {
        None => None,
        Some(text) => {
            Some(VersionId::parse(&text).ok_or_else(|| Problem::bad_request("`cursor` is not one of this list"))?)
        }
    };
    let versions = model.newest_first(after.as_ref()).take(limit + 1);
    let found = versions
        .map(|version| (version.id.to_string(), line(model, version)))
        .collect();
    Ok(reply(
        StatusCode::OK,
        &page(
            &app,
            &headers,
            &format!("/v1/models/{}/versions", model.name),
            limit,
            found,
        ),
    ))
}

/// What is on disk about a version, with its record in the catalog.
async fn stored(
    app: &App,
    path: Three,
    headers: &HeaderMap,
) -> Result<(Arc<Model>, Arc<Version>, String, Prepared), Problem> {
    let (_, snapshot) = app.authorize(headers, Scope::Read)?;
    let Path((owner, name, reference)) = path.map_err(|_| Problem::not_found("this version"))?;
    let model = find(&snapshot, &owner, &name)?;
    let version = model
        .resolve(Some(&reference))
        .ok_or_else(|| Problem::not_found("this version"))?;
    let stored = app.store.version(version.id).await.map_err(Problem::internal)?;
    let stored = stored.ok_or_else(|| Problem::internal("a version of the catalog is not in the database"))?;
    let prepared = serde_json::from_str(&stored.prepared).map_err(Problem::internal)?;
    Ok((Arc::clone(model), Arc::clone(version), stored.manifest, prepared))
}

/// One version, with its schemas and its manifest.
pub(crate) async fn version(
    State(app): State<Arc<App>>,
    path: Three,
    headers: HeaderMap,
) -> Result<Response<Body>, Problem> {
    let (model, version, manifest, prepared) = stored(&app, path, &headers).await?;
    let readme = readme(&app, &manifest).await;
    let manifest: Value = serde_json::from_str(&manifest).map_err(Problem::internal)?;
    let mut body = line(&model, &version);
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
async fn readme(app: &Arc<App>, manifest: &str) -> Option<String> {
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

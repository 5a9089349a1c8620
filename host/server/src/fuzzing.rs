//! The doors through which the fuzz targets reach what parses requests. Not for anybody else: only with the feature `fuzzing`.

use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use maquette_sandbox::{LogLevel, LogLine};
use serde_json::Value;

use crate::app::App;
use crate::config::Config;
use crate::engine::Event;
use crate::http::{publish, streams, upload};
use crate::names::{VersionId, check_alias, check_name};
use crate::predictions::live::{Live, Position};
use crate::predictions::record::{Cached, Prediction, Source};
use crate::predictions::request::{self, VersionName, Wishes};
use crate::predictions::status::Status;
use crate::problem::Problem;
use crate::redact::Redactor;

/// Headers as a connection hands them over; those that it would refuse are left out.
pub fn headers(sent: &[(&str, &[u8])]) -> HeaderMap {
    let pair =
        |(name, value): &(&str, &[u8])| Some((HeaderName::try_from(*name).ok()?, HeaderValue::from_bytes(value).ok()?));
    sent.iter().filter_map(pair).collect()
}

/// Reads a body that publishes a version, up to where blobs are looked for: the version's id.
///
/// # Errors
/// Why it is refused.
pub fn version(model: &str, body: &[u8]) -> Result<String, String> {
    let new: publish::NewVersion = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    crate::publish::read(&new.request(model)).map(|id| id.to_string())
}

/// Reads the other bodies of publishing: which blobs are missing, and where an alias points.
pub fn publishing(body: &[u8]) {
    if let Ok(publish::Missing { digests }) = serde_json::from_slice(body) {
        digests.iter().for_each(|text| drop(publish::digest(text)));
    }
    if let Ok(publish::PointTo { version }) = serde_json::from_slice(body) {
        let _ = (
            check_name("model", &version),
            check_alias(&version),
            VersionName::parse(&version),
        );
    }
}

/// Reads a URL that a caller names, as a server without exceptions does: as it would be asked for, if it would.
pub fn outbound(text: &str) -> Option<String> {
    static OUTBOUND: std::sync::LazyLock<Option<crate::outbound::Outbound>> =
        std::sync::LazyLock::new(|| crate::outbound::Outbound::new(&[]).ok());
    OUTBOUND.as_ref()?.check(text).ok().map(String::from)
}

/// Reads a request for a prediction.
///
/// # Errors
/// The refusal as JSON.
pub fn prediction(headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
    let told = |problem: Problem| problem.body().to_string();
    let wishes = Wishes::read(headers).map_err(told)?;
    let sent: Value = serde_json::from_slice(body).map_err(|e| told(crate::run::invalid_json(&e)))?;
    let mut body = request::Body::parse(sent).map_err(told)?;
    if let Some(id) = &body.id {
        request::check_id(id).map_err(told)?;
    }
    let schema = body.input.remove("schema").unwrap_or_default();
    let mut input = Value::Object(body.input.clone());
    Redactor::take(&schema, &mut input, wishes.key.as_deref());
    request::fingerprint(VersionId([0; 32]), &body.input, body.webhook.as_ref());
    body.version.as_deref().map(VersionName::parse);
    Ok(())
}

/// What a stream of events says, from an event's id on.
#[derive(Debug)]
pub struct Told {
    /// The events as text.
    pub text: String,
    /// The id to go on from.
    pub next: String,
    /// How many items of the output and bytes of the log are in it.
    pub news: (usize, usize),
}

/// A prediction with these items and lines of log, ended with this error, told from the id on; `None` if it is no id.
pub fn stream(id: &str, items: &[&str], lines: &[&str], error: Option<&str>) -> Option<Told> {
    let mut position = Position::parse(id)?;
    let row = Prediction {
        owner: "o".into(),
        id: "p".into(),
        token: String::new(),
        model: "o/m".into(),
        version: VersionId([0; 32]),
        deployment: None,
        status: Status::Processing,
        source: Source::Api,
        origin: String::new(),
        input: "{}".into(),
        secret: false,
        output: None,
        error: None,
        logs: String::new(),
        metrics: "{}".to_owned(),
        created_at: 0,
        started_at: None,
        completed_at: None,
        deadline: None,
        attempt: 1,
        webhook: None,
        cache: Cached::Off,
        took: Default::default(),
        removed: false,
    };
    let live = Live::new(row);
    for line in lines {
        live.hear(Event::Log(LogLine {
            level: LogLevel::Info,
            message: (*line).to_owned(),
        }));
    }
    for item in items {
        live.hear(Event::Item((*item).to_owned()));
    }
    let mut row = live.row();
    row.status = if error.is_some() {
        Status::Failed
    } else {
        Status::Succeeded
    };
    row.error = error.map(str::to_owned);
    live.end(row);
    let before = position;
    let news = live.news(&mut position);
    Some(Told {
        text: streams::text(before, &news),
        next: position.to_string(),
        news: (news.items.len(), news.logs.len()),
    })
}

/// A server without a network that takes uploads.
pub struct Uploads {
    app: Arc<App>,
    runtime: tokio::runtime::Runtime,
}

impl Uploads {
    /// One in this data folder, which takes files of so many bytes at most.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn open(data: &std::path::Path, largest: u64) -> Result<Self, String> {
        let config = Config {
            data: data.to_owned(),
            max_file_bytes: largest,
            lanes: 1,
            ..Config::default()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| e.to_string())?;
        let (app, _) = App::open(config).map_err(|e| e.to_string())?;
        Ok(Self {
            app: Arc::new(app),
            runtime,
        })
    }

    /// Reads a form that comes in these pieces: the file's name, type and metadata.
    ///
    /// # Errors
    /// The refusal as JSON.
    pub fn read(&self, content_type: &[u8], pieces: Vec<Vec<u8>>) -> Result<(String, String, String), String> {
        let headers = headers(&[(CONTENT_TYPE.as_str(), content_type)]);
        let pieces = pieces
            .into_iter()
            .map(|piece| Ok::<_, std::convert::Infallible>(Bytes::from(piece)));
        let body = Body::from_stream(futures::stream::iter(pieces));
        let sent = self.runtime.block_on(upload::read(&self.app, &headers, body));
        let sent = sent.map_err(|problem| problem.body().to_string())?;
        Ok((sent.name, sent.content_type, sent.metadata))
    }
}

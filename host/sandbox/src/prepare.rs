//! Turns a component into something that starts in microseconds: its imports are checked, long instructions divided, `describe` and
//! `load` run once, the loaded state is frozen, and the result is compiled into the cache.
//!
//! Compiling code from strangers can take long and much memory, so a server does this in a child process under limits.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use maquette_tensor::{Runtime, RuntimeConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use wasmtime::component::Component;

use crate::bindings::Model;
use crate::bulk;
use crate::cache::{self, Artifact};
use crate::call::LogLine;
use crate::engine::Engine;
use crate::error::Error;
use crate::imports::{MAX_COMPONENT_BYTES, check_imports};
use crate::limits::{Limits, MAX_INSTANCES, MAX_MEMORIES, MAX_MEMORY_BYTES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use crate::snapshot;
use crate::state::{Asset, Package, Phase, State};
use crate::store;
use crate::trap;

/// The most text that `describe` may return.
const MAX_DESCRIPTION_BYTES: usize = 256 << 10;

/// The longest name of an SDK.
const MAX_SDK_BYTES: usize = 128;

/// A blob of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// sha256 in hex; what a cache knows the blob by.
    pub digest: String,
    /// Where it lies.
    pub path: PathBuf,
}

/// The parts that a version is made of. The digests are taken on trust: whoever stored the blobs has verified them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parts {
    /// The component.
    pub component: Part,
    /// Weight files by the names that the guest uses. Of weights in several files, the second is `NAME#00002`, and so on in the order
    /// of their names: the guest sees one.
    pub weights: BTreeMap<String, Part>,
    /// Assets by the names that the guest uses.
    pub assets: BTreeMap<String, Part>,
    /// What one call may use.
    pub limits: Limits,
}

/// What a model says of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// JSON Schema of the input object.
    pub input: Value,
    /// JSON Schema of the output.
    pub output: Value,
    /// The SDK that made the component.
    pub sdk: String,
}

/// How a fresh sandbox comes to be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// It starts from a snapshot of the loaded state.
    Snapshot,
    /// It runs `load` itself, every time.
    PerSandbox {
        /// Why the component cannot be snapshotted.
        why: String,
    },
}

/// A component made ready; with its parts it can be opened by any engine of the same build on the same machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Prepared {
    /// What the model says of itself.
    pub description: Description,
    /// Whether sandboxes start loaded.
    pub load: Load,
    /// The compiled component's file name inside the cache folder.
    pub artifact: String,
    /// sha256 of that file, in hex: a changed file is not run.
    pub artifact_sha256: String,
    /// Its size.
    pub artifact_bytes: u64,
    /// Size of the component as it was sent.
    pub component_bytes: u64,
    /// What the guest logged while it loaded.
    pub load_logs: Vec<LogLine>,
    /// The interfaces that the component imports, without versions, sorted; nothing in records from before they were noted.
    #[serde(default)]
    pub imports: Option<Vec<String>>,
}

impl Prepared {
    pub(crate) fn artifact(&self) -> Artifact {
        Artifact {
            name: self.artifact.clone(),
            sha256: self.artifact_sha256.clone(),
            bytes: self.artifact_bytes,
        }
    }
}

/// Prepares a version, or finds it prepared already.
///
/// # Errors
/// [`crate::ErrorKind::Component`] if the component is at fault, with the guest's own words and a backtrace as detail.
pub fn prepare(engine: &Engine, parts: &Parts) -> Result<Prepared, Error> {
    let key = key(parts);
    if let Some(prepared) = recall(engine, &key) {
        return Ok(prepared);
    }
    let wasm = read_component(&parts.component.path)?;
    let component_bytes = wasm.len() as u64;
    let imports = check_imports(&wasm)?;
    let wasm = if engine.guarded() {
        bulk::divide(&wasm)?
    } else {
        Cow::Borrowed(&wasm[..])
    };
    let runtime =
        Runtime::cpu(RuntimeConfig::default()).map_err(|e| Error::host(format!("starting the tensor runtime: {e}")))?;
    let package = Arc::new(open_package(&runtime, parts)?);

    let (code, run, load) = match snapshot::instrument(&wasm) {
        Ok(instrumented) => {
            let component = compile(engine, &instrumented.wasm)?;
            let mut run = Run::new(engine, &runtime, &package, &component)?;
            run.load()?;
            let frozen = snapshot::check(&run.store).and_then(|()| {
                let instance = run.instance;
                let frozen = instrumented.freeze(&mut run.store, instance)?;
                let code = precompile(engine, &frozen)?;
                // A snapshot that does not start is worse than none.
                // SAFETY: `code` comes straight from this engine's own compiler.
                let component = unsafe { Component::deserialize(engine.wasmtime(), &code)? };
                let mut again =
                    Run::new(engine, &runtime, &package, &component).map_err(|e| wasmtime::format_err!("{e}"))?;
                again.describe().map_err(|e| wasmtime::format_err!("{e}"))?;
                Ok(code)
            });
            match frozen {
                Ok(code) => (code, run, Load::Snapshot),
                Err(why) => (
                    plain(engine, &wasm)?,
                    run,
                    Load::PerSandbox {
                        why: format!("{why:#}"),
                    },
                ),
            }
        }
        Err(why) => {
            let component = compile(engine, &wasm)?;
            let mut run = Run::new(engine, &runtime, &package, &component)?;
            run.load()?;
            (
                plain(engine, &wasm)?,
                run,
                Load::PerSandbox {
                    why: format!("{why:#}"),
                },
            )
        }
    };
    let artifact = cache::store(engine, &key, &code)?;
    let prepared = Prepared {
        description: run.description,
        load,
        artifact: artifact.name,
        artifact_sha256: artifact.sha256,
        artifact_bytes: artifact.bytes,
        component_bytes,
        load_logs: run.store.data().log.take().0,
        imports: Some(imports),
    };
    remember(engine, &key, &prepared);
    Ok(prepared)
}

/// Everything that the loaded state depends on.
fn key(parts: &Parts) -> String {
    let mut sha = Sha256::new();
    let mut add = |text: &str| {
        sha.update((text.len() as u64).to_le_bytes());
        sha.update(text);
    };
    add("prepared/3");
    add(&parts.component.digest);
    for (kind, list) in [("weights", &parts.weights), ("assets", &parts.assets)] {
        add(kind);
        for (name, part) in list {
            add(name);
            add(&part.digest);
        }
    }
    hex::encode(sha.finalize())
}

/// A record beside the artifact makes preparing the same version again cost a look.
fn recall(engine: &Engine, key: &str) -> Option<Prepared> {
    let prepared: Prepared = serde_json::from_slice(&std::fs::read(cache::record(engine, key)).ok()?).ok()?;
    cache::find(engine, &prepared.artifact()).ok()?;
    Some(prepared)
}

/// Best effort: without the record the component is prepared again.
fn remember(engine: &Engine, key: &str, prepared: &Prepared) {
    let written = tempfile::Builder::new()
        .prefix(".partial-")
        .tempfile_in(engine.cache())
        .and_then(|file| {
            serde_json::to_writer(file.as_file(), prepared)?;
            file.persist(cache::record(engine, key)).map_err(|e| e.error)
        });
    if let Err(e) = written {
        tracing::warn!("the record of a prepared component could not be kept: {e}");
    }
}

fn read_component(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    let fail = |e: std::io::Error| Error::host(format!("component {}: {e}", path.display()));
    let size = std::fs::metadata(path).map_err(fail)?.len();
    if size > MAX_COMPONENT_BYTES {
        return Err(Error::component(format!(
            "the component is {size} bytes, the limit is {MAX_COMPONENT_BYTES}: put data into [weights] or [assets] instead of the code"
        )));
    }
    std::fs::read(path).map_err(fail)
}

/// Opens the files that a version's sandboxes share.
pub(crate) fn open_package(runtime: &Runtime, parts: &Parts) -> Result<Package, Error> {
    let mut shards: BTreeMap<&str, Vec<(&str, &Path)>> = BTreeMap::new();
    for (name, part) in &parts.weights {
        let name = name.split_once('#').map_or(name.as_str(), |(name, _)| name);
        shards.entry(name).or_default().push((&part.digest, &part.path));
    }
    let mut weights = BTreeMap::new();
    for (name, shards) in shards {
        let file = runtime.weights().open_shards(&shards);
        weights.insert(
            name.to_owned(),
            file.map_err(|e| Error::component(format!("weights `{name}`: {}", e.message)))?,
        );
    }
    let mut assets = BTreeMap::new();
    for (name, part) in &parts.assets {
        let fail = |e: std::io::Error| Error::host(format!("asset `{name}` at {}: {e}", part.path.display()));
        let file = std::fs::File::open(&part.path).map_err(fail)?;
        let size = file.metadata().map_err(fail)?.len();
        assets.insert(name.clone(), Asset { file, size });
    }
    Ok(Package {
        owner: parts.component.digest.as_str().into(),
        weights,
        assets,
        limits: parts.limits,
    })
}

fn compile(engine: &Engine, wasm: &[u8]) -> Result<Component, Error> {
    snapshot::compile(engine.wasmtime(), wasm).map_err(|e| uncompilable(&e))
}

fn precompile(engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Vec<u8>> {
    engine.wasmtime().precompile_component(wasm)
}

fn plain(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, Error> {
    precompile(engine, wasm).map_err(|e| uncompilable(&e))
}

/// Why the compiler refuses a component.
fn uncompilable(error: &wasmtime::Error) -> Error {
    let cause = format!("{error:#}").replace('\n', ": ");
    Error::component(if cause.contains("pooling allocator") {
        format!(
            "the component takes more than a sandbox has, which is {MAX_INSTANCES} core instances, {MAX_MEMORIES} memories of up to \
             {MAX_MEMORY_BYTES} bytes, {MAX_TABLES} tables of {MAX_TABLE_ELEMENTS} elements, one for each core module: {cause}"
        )
    } else {
        format!("the component does not compile: {cause}")
    })
}

/// A sandbox in which `describe` and `load` run.
struct Run {
    store: wasmtime::Store<State>,
    instance: wasmtime::component::Instance,
    model: Model,
    description: Description,
}

impl Run {
    fn new(
        engine: &Engine,
        runtime: &Arc<Runtime>,
        package: &Arc<Package>,
        component: &Component,
    ) -> Result<Self, Error> {
        let allowed = Duration::from_millis(package.limits.timeout_ms);
        let state = State::new(runtime, package, &package.owner, Phase::Load, Instant::now(), allowed);
        let mut store = store::new(engine, state);
        let pre = engine.linker().instantiate_pre(component).map_err(|e| {
            Error::component(format!(
                "the component does not fit the world `maquette:model/model`: {e:#}"
            ))
        })?;
        let instance = match pre.instantiate(&mut store) {
            Ok(instance) => instance,
            Err(e) => return Err(failed(&store, &e, "start")),
        };
        let model = Model::new(&mut store, &instance).map_err(|e| {
            Error::component(format!(
                "the component does not fit the world `maquette:model/model`: {e:#}"
            ))
        })?;
        let nothing = Description {
            input: Value::Null,
            output: Value::Null,
            sdk: String::new(),
        };
        Ok(Self {
            store,
            instance,
            model,
            description: nothing,
        })
    }

    fn describe(&mut self) -> Result<(), Error> {
        let described = self.model.maquette_model_predictor().call_describe(&mut self.store);
        let described = described.map_err(|e| failed(&self.store, &e, "describe"))?;
        if described.input.len() + described.output.len() + described.sdk.len() > MAX_DESCRIPTION_BYTES {
            return Err(Error::component(format!(
                "`describe` returned more than {MAX_DESCRIPTION_BYTES} bytes"
            )));
        }
        if described.sdk.len() > MAX_SDK_BYTES || described.sdk.chars().any(char::is_control) {
            return Err(Error::component(format!(
                "`describe`: the sdk must be at most {MAX_SDK_BYTES} bytes of text in one line, such as `rust/0.1.0`"
            )));
        }
        let parse = |what: &str, text: &str| {
            let schema: Value = serde_json::from_str(text)
                .map_err(|e| Error::component(format!("`describe`: the {what} schema is not JSON: {e}")))?;
            if schema.is_object() {
                Ok(schema)
            } else {
                Err(Error::component(format!(
                    "`describe`: the {what} schema is not a JSON object"
                )))
            }
        };
        self.description = Description {
            input: parse("input", &described.input)?,
            output: parse("output", &described.output)?,
            sdk: described.sdk,
        };
        Ok(())
    }

    fn load(&mut self) -> Result<(), Error> {
        self.describe()?;
        match self.model.maquette_model_predictor().call_load(&mut self.store) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(Error::component(format!(
                "`load` failed: {}",
                crate::trap::message(&e.message)
            ))),
            Err(e) => Err(failed(&self.store, &e, "load")),
        }
    }
}

fn failed(store: &wasmtime::Store<State>, error: &wasmtime::Error, export: &str) -> Error {
    let state = store.data();
    let (logs, _) = state.log.take();
    let failure = trap::explain(error, export, state, &logs);
    Error::component(format!("`{export}` failed: {}", failure.message)).with_detail(failure.detail)
}

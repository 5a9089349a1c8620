//! A model in this process: its package assembled, its component prepared and opened in the sandbox and under the limits that a
//! server would use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use maquette_package::blobs::BlobStore;
use maquette_package::version::{Blob, VersionManifest};
use maquette_package::{Digest, Package};
use maquette_sandbox::{
    Call, Code, Engine, EngineConfig, Event, Guest, Limits, Load, OutputFile, Part, Parts, Prepared, Report,
    STACK_BYTES, files, prepare,
};
use maquette_server::Grant;
use maquette_server::schema::{FieldError, Schema};
use maquette_tensor::{Device, Runtime, RuntimeConfig};
use serde_json::Value;

use crate::failure::{Failure, Result};
use crate::paths;
use crate::sdk;
use crate::ui::{Ui, bytes, time};

/// Memory for weights, in bytes: what a server has by default.
const WEIGHT_BUDGET: u64 = 8 << 30;

/// Compiled programs kept.
const PROGRAMS: usize = 64;

/// What a command line names: a model's folder, or a component by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A folder with a `maquette.toml`.
    Folder(PathBuf),
    /// A component's file.
    Component(PathBuf),
}

impl Target {
    /// Tells them apart.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        if path.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        if path.is_file() {
            if path
                .file_name()
                .is_some_and(|name| name == maquette_package::manifest::FILE)
            {
                let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
                return Ok(Self::Folder(parent.unwrap_or(Path::new(".")).to_owned()));
            }
            return Ok(Self::Component(path.to_owned()));
        }
        Err(Failure::usage("there is no such folder or file")
            .at(path.display())
            .help("name a model's folder or a component's file; `maquette new NAME` makes a model"))
    }
}

/// The blobs of models that are worked on, apart from those of a server.
pub(crate) fn store() -> Result<BlobStore> {
    Ok(BlobStore::open(paths::cache().join("blobs"))?)
}

/// The folder for components that were compiled here.
pub(crate) fn compiled() -> PathBuf {
    paths::cache().join("compiled")
}

/// Builds and fetches what a folder names.
pub(crate) fn assemble(dir: &Path, store: &BlobStore, ui: &mut Ui) -> Result<Package> {
    let options = sdk::build_options(dir)?;
    let started = Instant::now();
    let package = maquette_package::assemble_with(dir, store, None, &options, ui)?;
    let manifest = &package.manifest;
    ui.step(
        "built",
        format!(
            "{} {}: component {}, weights {}, in {}",
            manifest.name,
            manifest.version,
            bytes(manifest.component.size),
            bytes(manifest.weights.values().map(|b| b.size).sum()),
            time(started.elapsed()),
        ),
    );
    for problem in &package.report.problems {
        ui.warn(format!("{} ({}); {}", problem.what, problem.where_, problem.help));
    }
    Ok(package)
}

/// A model that can be called.
pub(crate) struct Model {
    /// What it is made of.
    pub(crate) parts: Parts,
    /// What preparing it found out.
    pub(crate) prepared: Prepared,
    guest: Guest,
    input: Schema,
    output: Schema,
}

/// The sandbox engine and the tensor runtime.
pub(crate) struct Host {
    engine: Engine,
    runtime: Arc<Runtime>,
}

/// The option of commands that run models.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct On {
    /// Where tensors live and ops run: `cpu`, or `cuda:0` for the first NVIDIA GPU (in a binary built for them).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    pub(crate) device: Device,
}

fn device(text: &str) -> Result<Device, String> {
    text.parse().map_err(|e: maquette_tensor::ops::Error| e.message)
}

impl On {
    /// Finds out whether the device can be used, before anything takes long.
    pub(crate) fn check(self) -> Result<Device> {
        match self.device.check() {
            Ok(()) => Ok(self.device),
            Err(e) => Err(Failure::environment(e.message)),
        }
    }
}

impl Host {
    /// Starts both, with tensors on the processor.
    pub(crate) fn start() -> Result<Self> {
        Self::start_on(Device::Cpu)
    }

    /// Starts both, with tensors on a device.
    pub(crate) fn start_on(device: Device) -> Result<Self> {
        Self::start_in(&compiled(), device)
    }

    /// Starts both with another folder for compiled components.
    pub(crate) fn start_in(cache: &Path, device: Device) -> Result<Self> {
        paths::make_private(cache)?;
        let engine = Engine::new(EngineConfig {
            cache: cache.to_owned(),
            calls: 8,
            ..EngineConfig::default()
        })?;
        let settings = RuntimeConfig {
            weight_budget: WEIGHT_BUDGET,
            program_capacity: PROGRAMS,
            ..RuntimeConfig::default()
        };
        let runtime = Runtime::on(device, settings)
            .map_err(|e| Failure::environment(format!("the tensor runtime cannot start: {}", e.message)))?;
        Ok(Self { engine, runtime })
    }

    /// The sandbox engine.
    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The tensor runtime.
    pub(crate) fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Checks, compiles and loads a model.
    pub(crate) fn open(&self, parts: Parts) -> Result<Model> {
        let prepared = on_big_stack(|| prepare(&self.engine, &parts))??;
        let guest = Guest::open(&self.engine, &self.runtime, &parts, &prepared)?;
        let schema = |what: &str, schema: &Value| {
            Schema::new(schema.clone()).map_err(|why| {
                Failure::failed(format!(
                    "the {what} schema that `describe` returns cannot be used: {why}"
                ))
            })
        };
        let input = schema("input", &prepared.description.input)?;
        if input.value().get("type").and_then(Value::as_str) != Some("object") {
            return Err(Failure::failed(
                "the input schema that `describe` returns must have `\"type\": \"object\"`",
            ));
        }
        let output = schema("output", &prepared.description.output)?;
        Ok(Model {
            parts,
            prepared,
            guest,
            input,
            output,
        })
    }
}

/// How a call is to be made.
#[derive(Default)]
pub(crate) struct How {
    /// What `run.seed` returns.
    pub(crate) seed: u64,
    /// Less time than the version's limit.
    pub(crate) timeout: Option<Duration>,
    /// Is told of logs, progress and items as they come.
    pub(crate) events: Option<Box<dyn FnMut(Event) + Send + Sync>>,
}

/// What a call returned.
pub(crate) struct Made {
    /// The output, with references to files in it.
    pub(crate) output: Value,
    /// The files.
    pub(crate) files: Vec<OutputFile>,
    /// Where the output does not fit the model's own schema.
    pub(crate) misfits: Vec<FieldError>,
}

/// Why a call failed.
pub(crate) enum Broken {
    /// The input does not fit the schema; nothing was run.
    Input(Vec<FieldError>),
    /// The model failed.
    Model {
        /// The kind of failure.
        code: Code,
        /// For the caller.
        message: String,
        /// The guest's own words and a backtrace.
        detail: Option<String>,
    },
}

impl Model {
    /// The input schema.
    pub(crate) fn input_schema(&self) -> &Value {
        self.input.value()
    }

    /// The open component, for measuring.
    pub(crate) fn guest(&self) -> &Guest {
        &self.guest
    }

    /// The input as the guest gets it: defaults filled in, checked, files taken out.
    pub(crate) fn checked(
        &self,
        mut input: Value,
    ) -> Result<(Value, Vec<maquette_sandbox::InputFile>), Vec<FieldError>> {
        self.input.fill(&mut input);
        self.input.check(&input)?;
        let sent = files::extract(self.input.value(), &mut input).map_err(|e| {
            vec![FieldError {
                field: String::new(),
                message: e.message,
            }]
        })?;
        Ok((input, sent))
    }

    /// A JSON text as the guest gets it, for measuring.
    pub(crate) fn checked_input(&self, input: &str) -> Result<String> {
        let broken = |why: String| Failure::failed(format!("the input does not fit the model: {why}"));
        let input: Value = serde_json::from_str(input).map_err(|e| broken(e.to_string()))?;
        let (input, _) = self.checked(input).map_err(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            broken(errors.join("; "))
        })?;
        Ok(input.to_string())
    }

    /// Calls it once in a fresh sandbox.
    pub(crate) fn call(&self, input: Value, how: How) -> Result<(Result<Made, Broken>, Report)> {
        let (input, sent) = match self.checked(input) {
            Ok(checked) => checked,
            Err(errors) => return Ok((Err(Broken::Input(errors)), Report::default())),
        };
        let call = Call {
            input: input.to_string(),
            files: sent,
            seed: how.seed,
            timeout: how.timeout,
            events: how.events,
            ..Call::default()
        };
        let outcome = on_big_stack(|| self.guest.call(call))?;
        let made = match outcome.result {
            Ok(made) => made,
            Err(failure) => {
                let broken = Broken::Model {
                    code: failure.code,
                    message: failure.message,
                    detail: failure.detail,
                };
                return Ok((Err(broken), outcome.report));
            }
        };
        let output: Value =
            serde_json::from_str(&made.json).map_err(|e| Failure::failed(format!("the output is not JSON: {e}")))?;
        let mut whole = output.clone();
        files::embed(&mut whole, &made.files);
        let misfits = self.output.check(&whole).err().unwrap_or_default();
        let made = Made {
            output,
            files: made.files,
            misfits,
        };
        Ok((Ok(made), outcome.report))
    }

    /// A line about how sandboxes of this model come to be loaded.
    pub(crate) fn load_note(&self) -> String {
        match &self.prepared.load {
            Load::Snapshot => "sandboxes start from a snapshot of the loaded model".to_owned(),
            Load::PerSandbox { why } => format!("`load` runs in every sandbox: {why}"),
        }
    }
}

/// Runs something on a thread with the stack that guests need.
pub(crate) fn on_big_stack<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("sandbox".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work)
            .map_err(|e| Failure::environment(format!("a thread cannot be started: {e}")))?;
        thread
            .join()
            .map_err(|_| Failure::environment("the sandbox's thread panicked: this is a bug of maquette"))
    })
}

/// The parts of an assembled version, under the limits that a server with default settings grants.
pub(crate) fn parts(manifest: &VersionManifest, store: &BlobStore) -> Result<Parts> {
    let part = |blob: &Blob| match store.path(&blob.sha256) {
        Some(path) => Ok(Part {
            digest: blob.sha256.to_string(),
            path,
        }),
        None => Err(
            Failure::environment(format!("the blob {} has vanished from the cache", blob.sha256))
                .help("run the command again"),
        ),
    };
    let all = |blobs: &BTreeMap<String, Blob>| {
        let parts = blobs.iter().map(|(name, blob)| Ok((name.clone(), part(blob)?)));
        parts.collect::<Result<BTreeMap<_, _>>>()
    };
    Ok(Parts {
        component: part(&manifest.component)?,
        weights: all(&manifest.weights)?,
        assets: all(&manifest.assets)?,
        limits: granted(&manifest.limits),
    })
}

/// The parts of a component without a package.
pub(crate) fn bare_parts(path: &Path) -> Result<Parts> {
    let wasm = std::fs::read(path).map_err(|e| Failure::file("read the component", path, &e))?;
    Ok(Parts {
        component: Part {
            digest: Digest::of(&wasm).to_string(),
            path: path.to_owned(),
        },
        weights: BTreeMap::new(),
        assets: BTreeMap::new(),
        limits: Limits::default(),
    })
}

/// The minimum of what a manifest asks for and what a server with default settings allows.
fn granted(asked: &maquette_package::version::Limits) -> Limits {
    let (default, grant) = (Limits::default(), Grant::default());
    Limits {
        timeout_ms: asked.timeout_ms.unwrap_or(default.timeout_ms).min(grant.timeout_ms),
        memory_bytes: asked
            .memory_bytes
            .unwrap_or(default.memory_bytes)
            .min(grant.memory_bytes),
        tensor_bytes: asked
            .tensor_bytes
            .unwrap_or(default.tensor_bytes)
            .min(grant.tensor_bytes),
        output_bytes: asked
            .output_bytes
            .unwrap_or(default.output_bytes)
            .min(grant.output_bytes),
        file_bytes: asked.file_bytes.unwrap_or(default.file_bytes).min(grant.file_bytes),
        log_bytes: asked.log_bytes.unwrap_or(default.log_bytes).min(grant.log_bytes),
    }
}

/// Limits in one line.
pub(crate) fn limits_line(limits: &Limits) -> String {
    format!(
        "{} s, guest memory {}, tensors {}, output {}, files {}, logs {}",
        limits.timeout_ms as f64 / 1e3,
        bytes(limits.memory_bytes),
        bytes(limits.tensor_bytes),
        bytes(limits.output_bytes),
        bytes(limits.file_bytes),
        bytes(limits.log_bytes),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::failure::Exit;

    #[test]
    fn a_device_that_is_not_there_is_the_machines_fault_and_one_that_is_none_the_command_lines() {
        let on = |device| On { device };
        assert_eq!(on(Device::Cpu).check().unwrap(), Device::Cpu);
        let failure = on(Device::Cuda(4_000_000_000)).check().unwrap_err();
        assert_eq!(failure.exit, Exit::Environment);
        assert!(
            failure.what.contains("--device cpu") || failure.what.contains("nvidia-smi"),
            "{}",
            failure.what
        );
        assert!(device("gpu").unwrap_err().contains("`cuda:0`"));
    }

    #[test]
    fn a_manifest_gets_what_it_asks_for_up_to_the_servers_grant() {
        let asked = maquette_package::version::Limits {
            timeout_ms: Some(u64::MAX),
            memory_bytes: Some(1 << 20),
            ..Default::default()
        };
        let granted = granted(&asked);
        assert_eq!(granted.timeout_ms, Grant::default().timeout_ms);
        assert_eq!(granted.memory_bytes, 1 << 20);
        assert_eq!(granted.tensor_bytes, Limits::default().tensor_bytes);
    }

    #[test]
    fn a_target_is_a_folder_a_manifest_or_a_component() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "").unwrap();
            path
        };
        let (manifest, wasm) = (file("maquette.toml"), file("x.wasm"));
        assert_eq!(
            Target::new(folder.path()).unwrap(),
            Target::Folder(folder.path().to_owned())
        );
        assert_eq!(
            Target::new(&manifest).unwrap(),
            Target::Folder(folder.path().to_owned())
        );
        assert_eq!(Target::new(&wasm).unwrap(), Target::Component(wasm.clone()));
        assert_eq!(Target::new(&folder.path().join("none")).unwrap_err().exit as i32, 2);
    }
}

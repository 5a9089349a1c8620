//! The seam to the sandbox: the one engine and tensor runtime of the process, and the words of theirs that the service uses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use maquette_package::blobs::BlobStore;
use maquette_package::version::{Blob, VersionManifest};
use maquette_sandbox::{Engine, EngineConfig, Error};
use maquette_tensor::{Runtime, RuntimeConfig};

pub(crate) use maquette_sandbox::{
    Call, Cancel, Code, ErrorKind, Event, Failure, Guest, InputFile, Limits, MAX_MEMORY_BYTES, Outcome, Output,
    OutputFile, Part, Parts, Prepared, STACK_BYTES, files, prepare,
};

use crate::config::Config;
use crate::grant::{Offer, grant};

/// Sandboxes beyond those of the lanes: for the cases of versions being published.
const SPARE_SANDBOXES: usize = 8;

/// Compiled programs kept by the tensor runtime.
const PROGRAMS: usize = 1024;

/// Opens versions.
#[derive(Clone)]
pub(crate) struct Sandboxes {
    engine: Engine,
    runtime: Arc<Runtime>,
}

impl Sandboxes {
    /// Starts the engine and the tensor runtime. `cache` holds compiled components; `threads` is how many calls run at once.
    pub(crate) fn start(config: &Config, cache: &Path, threads: usize) -> Result<Self, String> {
        if config.tensor_threads > 0 {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(config.tensor_threads);
            if let Err(e) = pool.thread_name(|i| format!("tensor-{i}")).build_global() {
                tracing::warn!("the number of tensor threads stays as it is: {e}");
            }
        }
        let calls = u32::try_from(threads + SPARE_SANDBOXES).unwrap_or(u32::MAX);
        let engine = Engine::new(EngineConfig {
            cache: cache.to_owned(),
            calls,
            ..EngineConfig::default()
        });
        let settings = RuntimeConfig {
            weight_budget: config.weight_budget,
            program_capacity: PROGRAMS,
        };
        let runtime = Runtime::on(config.device, settings);
        Ok(Self {
            engine: engine.map_err(|e| e.to_string())?,
            runtime: runtime.map_err(|e| format!("the tensor runtime: {}", e.message))?,
        })
    }

    /// Opens a prepared version. Blocks: reads files.
    pub(crate) fn open(&self, parts: &Parts, prepared: &Prepared) -> Result<Guest, Error> {
        Guest::open(&self.engine, &self.runtime, parts, prepared)
    }

    /// Bytes of weights in memory.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.runtime.weights().resident_bytes()
    }
}

/// An engine of its own for the child process that compiles.
pub(crate) fn compiler(cache: &Path) -> Result<Engine, Error> {
    Engine::new(EngineConfig {
        cache: cache.to_owned(),
        calls: 4,
        ..EngineConfig::default()
    })
}

/// Finds a version's parts in the blob store and grants it its limits.
///
/// # Errors
/// Names the blobs that are missing.
pub(crate) fn parts(manifest: &VersionManifest, blobs: &BlobStore, offer: &Offer) -> Result<Parts, String> {
    let part = |what: &str, blob: &Blob| match blobs.path(&blob.sha256) {
        Some(path) => Ok(Part {
            digest: blob.sha256.to_string(),
            path,
        }),
        None => Err(format!("{what}: the blob {} is not stored", blob.sha256)),
    };
    let all = |what: &str, of: &BTreeMap<String, Blob>| {
        let parts = of
            .iter()
            .map(|(name, blob)| Ok((name.clone(), part(&format!("{what} `{name}`"), blob)?)));
        parts.collect::<Result<BTreeMap<_, _>, String>>()
    };
    Ok(Parts {
        component: part("component", &manifest.component)?,
        weights: all("weights", &manifest.weights)?,
        assets: all("asset", &manifest.assets)?,
        limits: grant(&manifest.limits, offer).limits(),
    })
}

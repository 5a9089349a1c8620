//! The seam to the sandbox: the one engine and tensor runtime of the process, and the words of theirs that the service uses.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use maquette_package::blobs::BlobStore;
use maquette_package::version::{Blob, VersionManifest};
use maquette_sandbox::{Engine, EngineConfig, Error};
use maquette_tensor::{Device, Memory, Runtime, RuntimeConfig};

pub(crate) use maquette_sandbox::{
    Call, Cancel, Code, ErrorKind, Event, Failure, Guest, InputFile, Limits, MAX_MEMORY_BYTES, Outcome, Output,
    OutputFile, Part, Parts, Prepared, STACK_BYTES, files, prepare,
};

use crate::config::Config;
use crate::grant::{Offer, Present, grant};
use crate::machine;

/// Sandboxes beyond those of the lanes: for the cases of versions being published.
const SPARE_SANDBOXES: usize = 8;

/// Compiled programs kept by the tensor runtime.
const PROGRAMS: usize = 1024;

/// Memory for weights where nobody knows how much there is, in bytes.
const WEIGHTS: u64 = 8 << 30;

/// Memory for calls where nobody knows how much there is, in bytes.
const MEMORY: u64 = 4 << 30;

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
                tracing::warn!("the number of threads that load weights stays as it is: {e}");
            }
            if !maquette_tensor::set_threads(config.tensor_threads) {
                tracing::warn!("the number of threads that ops share stays as it is: some have run");
            }
        }
        let calls = u32::try_from(threads + SPARE_SANDBOXES).unwrap_or(u32::MAX);
        let engine = Engine::new(EngineConfig {
            cache: cache.to_owned(),
            calls,
            ..EngineConfig::default()
        });
        let (weights, memory) = shares(config, machine::memory());
        tracing::info!(
            weights_mib = weights >> 20,
            calls_mib = memory >> 20,
            "memory for weights, and for calls"
        );
        // Each publish may run cases beside the calls.
        let at_once = threads + config.publishes;
        let settings = RuntimeConfig {
            weight_budget: weights,
            program_capacity: PROGRAMS,
            memory: Memory::new(memory, at_once as u64),
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

    /// What calls may hold, and hold.
    pub(crate) fn memory(&self) -> &Memory {
        self.runtime.memory()
    }

    /// What one call can have.
    pub(crate) fn present(&self) -> Present {
        Present::new(self.memory().most(), in_memory(self.runtime.device()))
    }

    /// Guests that run look at once whether they have to stop or wait.
    pub(crate) fn interrupt(&self) {
        self.engine.wasmtime().increment_epoch();
    }

    /// Bytes of weights in memory.
    pub(crate) fn weight_bytes(&self) -> u64 {
        self.runtime.weights().resident_bytes()
    }
}

/// Whether tensors and weights live in the machine's memory.
fn in_memory(device: Device) -> bool {
    !matches!(device, Device::Cuda(_))
}

/// The bytes for weights and for calls, as the settings say, or else as parts of what there is. A quarter of that is left for
/// everything else: requests, what waits, what is cached, the database, compiling.
fn shares(config: &Config, there_is: Option<u64>) -> (u64, u64) {
    let here = in_memory(config.device);
    let eighths = |n: u64| there_is.map(|all| all / 8 * n);
    let weights = match config.weight_budget {
        0 => eighths(3).filter(|_| here).unwrap_or(WEIGHTS),
        set => set,
    };
    let memory = match config.memory_bytes {
        0 => eighths(if here { 3 } else { 6 }).unwrap_or(MEMORY),
        set => set,
    };
    (weights, memory)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_calls_get_their_parts_of_what_there_is_unless_they_are_set() {
        let shares = |weights, memory, device, there_is| {
            let config = Config {
                weight_budget: weights,
                memory_bytes: memory,
                device,
                ..Config::default()
            };
            shares(&config, there_is)
        };
        let (cpu, gpu) = (Device::Cpu, Device::Cuda(0));
        assert_eq!(shares(0, 0, cpu, Some(800)), (300, 300));
        assert_eq!(shares(0, 0, gpu, Some(800)), (WEIGHTS, 600));
        assert_eq!(shares(7, 9, cpu, Some(800)), (7, 9));
        assert_eq!(shares(0, 0, cpu, None), (WEIGHTS, MEMORY));
    }
}

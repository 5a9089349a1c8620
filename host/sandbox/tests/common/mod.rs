//! What the sandbox's tests share: a component made ready in a cache of its own.
#![allow(dead_code, unreachable_pub, reason = "not every test file uses everything")]

pub mod hostile;

use std::collections::BTreeMap;
use std::sync::Arc;

use maquette_sandbox::{Call, Engine, EngineConfig, Error, Guest, Limits, Outcome, Part, Parts, Prepared, prepare};
use maquette_tensor::{Runtime, RuntimeConfig};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

pub struct Host {
    pub engine: Engine,
    pub runtime: Arc<Runtime>,
    pub folder: TempDir,
}

impl Host {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let engine = Engine::new(EngineConfig {
            cache,
            calls: 8,
            backtraces: true,
        })
        .unwrap();
        Self {
            engine,
            runtime: Runtime::cpu(RuntimeConfig::default()).unwrap(),
            folder,
        }
    }

    pub fn part(&self, bytes: &[u8]) -> Part {
        let digest = hex::encode(Sha256::digest(bytes));
        let path = self.folder.path().join(&digest);
        std::fs::write(&path, bytes).unwrap();
        Part { digest, path }
    }

    pub fn parts(&self, wasm: &[u8], limits: Limits) -> Parts {
        Parts {
            component: self.part(wasm),
            weights: BTreeMap::new(),
            assets: BTreeMap::new(),
            limits,
        }
    }

    pub fn try_open(&self, parts: &Parts) -> Result<(Guest, Prepared), Error> {
        let prepared = prepare(&self.engine, parts)?;
        Ok((Guest::open(&self.engine, &self.runtime, parts, &prepared)?, prepared))
    }

    pub fn open(&self, wasm: &[u8]) -> Guest {
        self.try_open(&self.parts(wasm, limits())).unwrap().0
    }
}

/// Small limits, so that a hostile guest meets them soon.
pub fn limits() -> Limits {
    Limits {
        timeout_ms: 300,
        memory_bytes: 16 << 20,
        tensor_bytes: 1 << 20,
        output_bytes: 64 << 10,
        file_bytes: 64 << 10,
        log_bytes: 4 << 10,
    }
}

/// Calls a guest on a thread with the stack that guests need.
pub fn call(guest: &Guest, input: &str) -> Outcome {
    call_with(
        guest,
        Call {
            input: input.to_owned(),
            ..Call::default()
        },
    )
}

pub fn call_with(guest: &Guest, call: Call) -> Outcome {
    let guest = guest.clone();
    let thread = std::thread::Builder::new().stack_size(maquette_sandbox::STACK_BYTES);
    thread.spawn(move || guest.call(call)).unwrap().join().unwrap()
}

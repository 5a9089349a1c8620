//! Components from strangers: checked as a publisher's own machine does, then made ready as a server does: imports, instrumentation,
//! compilation, `describe` and `load` in a sandbox, the snapshot. What is accepted is called once.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use maquette_sandbox::{Call, Code, Engine, EngineConfig, ErrorKind, Guest, Limits, Part, Parts, STACK_BYTES, prepare};
use maquette_tensor::{Runtime, RuntimeConfig};
use tempfile::TempDir;

struct Host {
    engine: Engine,
    runtime: Arc<Runtime>,
    folder: TempDir,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("cache");
        let config = EngineConfig {
            cache,
            calls: 4,
            backtraces: true,
        };
        Host {
            engine: Engine::new(config).unwrap(),
            runtime: Runtime::cpu(RuntimeConfig::default()).unwrap(),
            folder,
        }
    })
}

pub(crate) fn run(data: &[u8]) {
    let report = maquette_package::check::check(data);
    let _ = report.summary();
    // Guests need more stack than this thread may have.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        let run = thread.spawn_scoped(scope, || served(data)).unwrap();
        if let Err(panic) = run.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn served(data: &[u8]) {
    let host = host();
    let path = host.folder.path().join("component");
    std::fs::write(&path, data).unwrap();
    let digest = maquette_package::Digest::of(data).to_string();
    let parts = Parts {
        component: Part { digest, path },
        weights: BTreeMap::new(),
        assets: BTreeMap::new(),
        limits: Limits {
            timeout_ms: 200,
            memory_bytes: 16 << 20,
            tensor_bytes: 1 << 20,
            output_bytes: 64 << 10,
            file_bytes: 64 << 10,
            log_bytes: 4 << 10,
        },
    };
    match prepare(&host.engine, &parts) {
        Ok(prepared) => {
            let guest = Guest::open(&host.engine, &host.runtime, &parts, &prepared).unwrap();
            let call = Call {
                input: "{}".to_owned(),
                ..Call::default()
            };
            if let Err(failure) = guest.call(call).result {
                assert!(failure.message.len() <= 8 << 10, "{}", failure.message.len());
                assert_ne!(failure.code, Code::Cancelled, "nobody has cancelled it");
            }
            drop(guest);
            let _ = std::fs::remove_file(host.folder.path().join("cache").join(&prepared.artifact));
        }
        Err(error) => assert_eq!(error.kind, ErrorKind::Component, "the host is not at fault: {error}"),
    }
    let pool = host.engine.wasmtime().pooling_allocator_metrics().unwrap();
    assert_eq!(
        (pool.component_instances(), pool.memories(), host.runtime.charged()),
        (0, 0, 0)
    );
}

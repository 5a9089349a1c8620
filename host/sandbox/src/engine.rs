//! The one wasmtime engine of a process: its settings, its clock, and the linker that every component shares.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{HasSelf, Linker};
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig, RegallocAlgorithm};

use crate::bindings::Model;
use crate::error::Error;
use crate::limits::{MAX_INSTANCES, MAX_MEMORIES, MAX_MEMORY_BYTES, MAX_TABLE_ELEMENTS, MAX_TABLES};
use crate::state::State;

/// How often running guests look whether they have to stop.
pub const EPOCH_TICK: Duration = Duration::from_millis(5);

/// The deepest stack a guest may have, in bytes. Guests run on the caller's thread, which needs [`STACK_BYTES`].
const MAX_WASM_STACK: usize = 1 << 20;

/// The stack that a thread needs to run guests: the guest's own, and what the host's functions under it use.
pub const STACK_BYTES: usize = 16 << 20;

/// What an engine is made with.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// A folder for compiled components, private to this user: what lies there is run as machine code.
    pub cache: PathBuf,
    /// How many sandboxes may be alive at once. Address space is reserved for all of them, memory is not.
    pub calls: u32,
    /// Whether failures carry a symbolised backtrace for the contributor.
    pub backtraces: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cache: std::env::temp_dir().join("maquette-cache"),
            calls: 64,
            backtraces: true,
        }
    }
}

/// The settings of every engine, those that compile as well as those that run: a difference would make every cached artifact
/// unusable.
fn engine_config(config: &EngineConfig, guarded: bool) -> Config {
    let mut c = Config::new();
    c.wasm_component_model(true);
    // Fewer features, fewer ways out: nothing that a model needs is off.
    c.concurrency_support(false);
    c.shared_memory(false);
    c.wasm_memory64(false);
    c.wasm_tail_call(false);
    c.wasm_multi_memory(true);
    c.wasm_stack_switching(false);
    c.relaxed_simd_deterministic(true);
    c.gc_support(false);
    c.epoch_interruption(guarded);
    c.max_wasm_stack(MAX_WASM_STACK);
    c.wasm_backtrace_max_frames(std::num::NonZeroUsize::new(if config.backtraces { 20 } else { 0 }));
    c.cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking);
    c.memory_init_cow(true);
    // Snapshots hold parsed tokenizers: tens of megabytes are still one image, mapped copy-on-write.
    c.memory_guaranteed_dense_image_size(64 << 20);
    c.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(config.calls)));
    c
}

fn pool(calls: u32) -> PoolingAllocationConfig {
    let mut p = PoolingAllocationConfig::new();
    // A component built for wasip2 is four core instances (the guest, its adapter, two shims), one memory and two tables. There is
    // room for as many as every sandbox may take: one that takes all that it may leaves the others what they need.
    p.total_component_instances(calls)
        .total_core_instances(calls.saturating_mul(MAX_INSTANCES))
        .total_memories(calls.saturating_mul(MAX_MEMORIES))
        .total_tables(calls.saturating_mul(MAX_TABLES))
        .total_stacks(1)
        .max_core_instances_per_component(MAX_INSTANCES)
        .max_memories_per_component(MAX_MEMORIES)
        .max_memories_per_module(MAX_MEMORIES)
        .max_tables_per_component(MAX_TABLES)
        .max_memory_size(MAX_MEMORY_BYTES as usize)
        .table_elements(MAX_TABLE_ELEMENTS)
        .max_component_instance_size(2 << 20)
        .max_core_instance_size(2 << 20)
        // Clearing a memory by hand costs more than letting the kernel drop its pages, but for the first few that every call touches.
        .linear_memory_keep_resident(16 << 10)
        .table_keep_resident(128 << 10)
        .max_unused_warm_slots(calls.min(16))
        // Off: an open report says that swapped pages would be neither reset nor returned.
        .pagemap_scan(Enabled::No);
    p
}

/// Compiles and runs components. Cheap to clone; a process needs one.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    wasmtime: wasmtime::Engine,
    linker: Linker<State>,
    cache: PathBuf,
    compatibility: String,
    guarded: bool,
}

impl Engine {
    /// Creates an engine, its cache folder (readable by this user only), and the thread that ticks its clock.
    ///
    /// # Errors
    /// If the machine lacks the address space for the pool or the cache folder cannot be made.
    pub fn new(config: EngineConfig) -> Result<Self, Error> {
        Self::with(config, true)
    }

    /// An engine without deadlines, limits of memory and bounds on copies: what the benchmark of their cost compares with. Nothing
    /// else may use it.
    ///
    /// # Errors
    /// As [`Engine::new`].
    #[cfg(feature = "measure")]
    pub fn unguarded(config: EngineConfig) -> Result<Self, Error> {
        Self::with(config, false)
    }

    fn with(config: EngineConfig, guarded: bool) -> Result<Self, Error> {
        crate::cache::create_private_folder(&config.cache)?;
        let host = |what: &str, e: wasmtime::Error| Error::host(format!("{what}: {e:#}"));
        let wasmtime = wasmtime::Engine::new(&engine_config(&config, guarded)).map_err(|e| {
            host(
                &format!(
                    "cannot reserve address space for {} sandboxes (lower the number of calls)",
                    config.calls
                ),
                e,
            )
        })?;
        let mut linker = Linker::new(&wasmtime);
        crate::wasi::add_to_linker(&mut linker).map_err(|e| host("linking WASI", e))?;
        Model::add_to_linker::<State, HasSelf<State>>(&mut linker, |state| state)
            .and_then(|()| crate::wit::link_uploads(&mut linker))
            .map_err(|e| host("linking the contract", e))?;
        start_clock(&wasmtime).map_err(|e| Error::host(format!("starting the epoch clock: {e}")))?;
        let compatibility = compatibility(&wasmtime);
        Ok(Self(Arc::new(Inner {
            wasmtime,
            linker,
            cache: config.cache,
            compatibility,
            guarded,
        })))
    }

    /// The engine underneath.
    pub fn wasmtime(&self) -> &wasmtime::Engine {
        &self.0.wasmtime
    }

    /// Whether guests are held to their limits: always, but in a benchmark.
    pub(crate) fn guarded(&self) -> bool {
        self.0.guarded
    }

    pub(crate) fn linker(&self) -> &Linker<State> {
        &self.0.linker
    }

    pub(crate) fn cache(&self) -> &std::path::Path {
        &self.0.cache
    }

    /// Names what compiled code depends on beside its source: wasmtime, its settings, and this processor's features.
    pub(crate) fn compatibility(&self) -> &str {
        &self.0.compatibility
    }
}

/// One thread moves the epoch on for as long as the engine lives.
fn start_clock(engine: &wasmtime::Engine) -> std::io::Result<()> {
    let engine = engine.weak();
    std::thread::Builder::new()
        .name("epoch-clock".to_owned())
        .stack_size(128 << 10)
        .spawn(move || {
            while let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
                drop(engine);
                std::thread::sleep(EPOCH_TICK);
            }
        })?;
    Ok(())
}

fn compatibility(engine: &wasmtime::Engine) -> String {
    use std::hash::{Hash as _, Hasher as _};
    struct Sha(sha2::Sha256);
    impl std::hash::Hasher for Sha {
        fn write(&mut self, bytes: &[u8]) {
            sha2::Digest::update(&mut self.0, bytes);
        }
        fn finish(&self) -> u64 {
            0
        }
    }
    let mut sha = Sha(sha2::Digest::new());
    engine.precompile_compatibility_hash().hash(&mut sha);
    sha.write(env!("CARGO_PKG_VERSION").as_bytes());
    hex::encode(&sha2::Digest::finalize(sha.0)[..8])
}

//! What a sandbox's store holds beside the guest's own memory: handles, budgets, the log, and what the guest may reach.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use maquette_tensor::ops::{self, Code};
use maquette_tensor::{Budget, Control, KvCache, Program, Runtime, Scope, Share, Tensor, WeightFile};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use crate::bindings::maquette::model::types;
use crate::call::{Cancel, Event, InputFile, LogLevel, OutputFile};
use crate::limits::{Limiter, Limits};
use crate::log::Log;
use crate::slab::Slab;

/// How a host function fails: with an error that the guest gets and may handle, or with the end of the sandbox.
pub(crate) enum HostError {
    /// The guest gets it as the WIT's `error`.
    Guest(ops::Error),
    /// The sandbox ends.
    Trap(wasmtime::Error),
}

impl From<ops::Error> for HostError {
    fn from(error: ops::Error) -> Self {
        Self::Guest(error)
    }
}

impl From<wasmtime::Error> for HostError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Trap(error)
    }
}

/// Which export the guest runs in, which decides what it may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// `describe` or `load`: pure.
    Load,
    /// `predict`.
    Predict,
}

/// Why the host ended a sandbox on purpose; travels as the cause of the trap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    #[error("the deadline passed")]
    Timeout,
    #[error("the call was cancelled")]
    Cancelled,
    #[error("`load` is pure and may not call {0}: call it from `predict`, or record a program, which needs no tensors")]
    Impure(&'static str),
}

/// Streams, sleeps and the like that a sandbox may hold: start-up code needs three, an async runtime one for each task.
const MAX_WASI_HANDLES: usize = 4096;

/// What a version brings along, shared by its sandboxes.
pub(crate) struct Package {
    /// The component's digest: who owns the programs that its sandboxes compile.
    pub(crate) owner: Arc<str>,
    pub(crate) weights: BTreeMap<String, Arc<WeightFile>>,
    pub(crate) assets: BTreeMap<String, Asset>,
    pub(crate) limits: Limits,
}

/// A file of a version.
pub(crate) struct Asset {
    pub(crate) file: std::fs::File,
    pub(crate) size: u64,
}

/// A file that the guest is writing.
pub(crate) struct Draft {
    pub(crate) media_type: String,
    pub(crate) bytes: Vec<u8>,
}

/// The data of a sandbox's store.
pub(crate) struct State {
    pub(crate) limiter: Limiter,
    /// What the call holds of the machine's memory.
    pub(crate) share: Arc<Share>,
    /// What files and output have taken of it.
    kept: u64,
    pub(crate) phase: Phase,
    pub(crate) deadline: Instant,
    /// The time that there was until the deadline.
    pub(crate) allowed: Duration,
    pub(crate) cancel: Cancel,
    /// Whether a host function was left or refused because the call had to stop: whatever the guest makes of that, it is why the call
    /// ends.
    left: bool,
    pub(crate) crossings: u64,
    pub(crate) seed: u64,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) package: Arc<Package>,
    scope: Option<Scope>,
    pub(crate) budget: Option<Arc<Budget>>,
    pub(crate) tensors: Slab<Tensor>,
    pub(crate) programs: Slab<Arc<Program>>,
    pub(crate) program_bytes: usize,
    pub(crate) caches: Slab<KvCache>,
    pub(crate) files: Vec<InputFile>,
    pub(crate) inputs: Slab<usize>,
    pub(crate) outputs: Slab<Draft>,
    pub(crate) finished: Vec<OutputFile>,
    pub(crate) file_bytes: u64,
    pub(crate) items: usize,
    pub(crate) output_bytes: u64,
    pub(crate) log: Log,
    pub(crate) metrics: BTreeMap<String, f64>,
    pub(crate) events: Option<Box<dyn FnMut(Event) + Send + Sync>>,
    wasi: Option<WasiCtx>,
    pub(crate) table: ResourceTable,
}

impl State {
    /// The state of a call of `owner`, or of what prepares a component, that began at some time and may go on for as long as it is
    /// allowed.
    pub(crate) fn new(
        runtime: &Arc<Runtime>,
        package: &Arc<Package>,
        owner: &Arc<str>,
        phase: Phase,
        started: Instant,
        allowed: Duration,
    ) -> Self {
        let share = runtime.memory().share(owner);
        Self {
            limiter: Limiter::new(package.limits.memory_bytes, Arc::clone(&share)),
            share,
            kept: 0,
            phase,
            deadline: started + allowed,
            allowed,
            cancel: Cancel::default(),
            left: false,
            crossings: 0,
            seed: 0,
            runtime: Arc::clone(runtime),
            package: Arc::clone(package),
            scope: None,
            budget: None,
            tensors: Slab::new(),
            programs: Slab::new(),
            program_bytes: 0,
            caches: Slab::new(),
            files: Vec::new(),
            inputs: Slab::new(),
            outputs: Slab::new(),
            finished: Vec::new(),
            file_bytes: 0,
            items: 0,
            output_bytes: 0,
            log: Log::new(package.limits.log_bytes),
            metrics: BTreeMap::new(),
            events: None,
            wasi: None,
            table: wasi_handles(),
        }
    }

    /// Counts a crossing and refuses it in `load`, where only pure imports may be called.
    #[inline]
    pub(crate) fn enter(&mut self, import: &'static str) -> wasmtime::Result<()> {
        self.crossings += 1;
        if self.phase == Phase::Load {
            return Err(wasmtime::Error::from(Stop::Impure(import)));
        }
        Ok(())
    }

    /// The call's tensor world, made when the first tensor is: a guest without tensors does not pay for it.
    #[inline]
    pub(crate) fn scope(&mut self) -> &Scope {
        self.scope.get_or_insert_with(|| {
            let budget = self.runtime.budget(self.package.limits.tensor_bytes, &self.share);
            self.budget = Some(Arc::clone(&budget));
            let control = Control {
                deadline: Some(self.deadline),
                cancelled: self.cancel.flag(),
            };
            Scope::new(Arc::clone(&self.runtime), budget, control).owned_by(Arc::clone(&self.package.owner))
        })
    }

    /// The tensor world if one was made.
    pub(crate) fn scope_if_any(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Makes sure that the machine has room for files and output of so many bytes together.
    pub(crate) fn keep(&mut self, bytes: u64) -> Result<(), ops::Error> {
        let more = bytes.saturating_sub(self.kept);
        self.share.take(more)?;
        self.kept += more;
        Ok(())
    }

    /// Drops what the guest holds handles to, and until some time not beside whoever goes first.
    pub(crate) fn drop_objects(&mut self, until: Instant) {
        self.tensors.clear(until);
        self.programs.clear(until);
        self.caches.clear(until);
    }

    /// Adds a line to the log, and tells it as it comes.
    pub(crate) fn log_line(&mut self, level: LogLevel, message: &str) {
        for line in self.log.line(level, message) {
            if let Some(events) = &mut self.events {
                events(Event::Log(line));
            }
        }
    }

    /// Why the guest has to stop now, if it has to.
    pub(crate) fn stop(&self) -> Option<Stop> {
        if self.cancel.is_cancelled() {
            Some(Stop::Cancelled)
        } else if Instant::now() >= self.deadline {
            Some(Stop::Timeout)
        } else {
            None
        }
    }

    /// Why the guest was told to stop, if it was.
    pub(crate) fn told_to_stop(&self) -> Option<Stop> {
        self.stop().filter(|_| self.left)
    }
}

/// The table of streams and sleeps, each of which is a box or two of the host's that no budget pays for.
fn wasi_handles() -> ResourceTable {
    let mut table = ResourceTable::new();
    table.set_max_capacity(MAX_WASI_HANDLES);
    table
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let log = &self.log;
        let ctx = self.wasi.get_or_insert_with(|| crate::wasi::context(log));
        WasiCtxView {
            ctx,
            table: &mut self.table,
        }
    }
}

impl types::Host for State {
    fn convert_error(&mut self, error: HostError) -> wasmtime::Result<types::Error> {
        match error {
            HostError::Guest(error) => {
                self.left |= matches!(error.code, Code::Timeout | Code::Cancelled);
                Ok(types::Error {
                    code: error.code.into(),
                    message: error.message,
                })
            }
            HostError::Trap(error) => Err(error),
        }
    }
}

impl From<Code> for types::ErrorCode {
    fn from(code: Code) -> Self {
        match code {
            Code::InvalidInput => Self::InvalidInput,
            Code::Shape => Self::Shape,
            Code::DType => Self::Dtype,
            Code::Unsupported => Self::Unsupported,
            Code::Quota => Self::Quota,
            Code::Cancelled => Self::Cancelled,
            Code::Timeout => Self::Timeout,
            Code::Internal => Self::Internal,
        }
    }
}

impl From<types::ErrorCode> for Code {
    fn from(code: types::ErrorCode) -> Self {
        match code {
            types::ErrorCode::InvalidInput => Self::InvalidInput,
            types::ErrorCode::Shape => Self::Shape,
            types::ErrorCode::Dtype => Self::DType,
            types::ErrorCode::Unsupported => Self::Unsupported,
            types::ErrorCode::Quota => Self::Quota,
            types::ErrorCode::Cancelled => Self::Cancelled,
            types::ErrorCode::Timeout => Self::Timeout,
            types::ErrorCode::Internal => Self::Internal,
        }
    }
}

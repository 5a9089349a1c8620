//! Runs `load` once and freezes the result: a component whose memory already holds what `load` made.
//!
//! The rewriting is wasmtime-wizer's. Its own driver needs an async store; this is the same in a synchronous one, and where
//! wizer cannot work it says why instead of failing.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wasmtime::component::{Component, Instance, Lift, WasmList};
use wasmtime::{Result, Store, format_err};
use wasmtime_wizer::{ComponentInstanceState, Wizer};

use crate::state::State;

/// A component with accessors to its inner state, ready to be loaded and frozen.
pub(crate) struct Instrumented<'a> {
    wizer: Wizer,
    context: wasmtime_wizer::ComponentContext<'a>,
    pub(crate) wasm: Vec<u8>,
}

/// Adds the accessors.
///
/// # Errors
/// Why this component cannot be snapshotted (components nested in it, start functions, v128 globals, …).
pub(crate) fn instrument(wasm: &[u8]) -> Result<Instrumented<'_>> {
    // Wizer panics on some components that it does not support; a contributor's component must not end the process.
    let result = std::panic::catch_unwind(|| {
        let wizer = Wizer::new();
        let (context, wasm) = wizer.instrument_component(wasm)?;
        Ok(Instrumented { wizer, context, wasm })
    });
    result.unwrap_or_else(|_| {
        Err(format_err!(
            "the snapshotter does not support something in this component"
        ))
    })
}

impl Instrumented<'_> {
    /// Freezes the state of an instance whose `load` has run.
    pub(crate) fn freeze(&self, store: &mut Store<State>, instance: Instance) -> Result<Vec<u8>> {
        let mut reader = Reader {
            store,
            instance,
            failure: None,
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            block_on(self.wizer.snapshot_component(&self.context, &mut reader))
        }));
        if let Some(failure) = reader.failure {
            return Err(failure);
        }
        result.unwrap_or_else(|_| {
            Err(format_err!(
                "the snapshotter does not support the state of this component"
            ))
        })
    }
}

/// Whether a component may be instantiated from a snapshot: its adapter must not have cached handles that die with the store.
pub(crate) fn check(store: &Store<State>) -> Result<()> {
    if store.data().table.is_empty() {
        Ok(())
    } else {
        Err(format_err!(
            "`load` left WASI handles open (it printed to standard output or error): use `log` instead"
        ))
    }
}

struct Reader<'a> {
    store: &'a mut Store<State>,
    instance: Instance,
    failure: Option<wasmtime::Error>,
}

impl Reader<'_> {
    fn call<R: Lift + 'static>(&mut self, instance: &str, func: &str) -> Option<R> {
        let result = (|| {
            let missing = || format_err!("the instrumented component lacks `{instance}#{func}`");
            let (_, outer) = self
                .instance
                .get_export(&mut *self.store, None, instance)
                .ok_or_else(missing)?;
            let (_, index) = self
                .instance
                .get_export(&mut *self.store, Some(&outer), func)
                .ok_or_else(missing)?;
            let func = self.instance.get_typed_func::<(), (R,)>(&mut *self.store, index)?;
            Ok(func.call(&mut *self.store, ())?.0)
        })();
        result.map_err(|e| self.failure = Some(e)).ok()
    }
}

impl ComponentInstanceState for Reader<'_> {
    async fn call_func_ret_list_u8(&mut self, instance: &str, func: &str, contents: impl FnOnce(&[u8]) + Send) {
        match self.call::<WasmList<u8>>(instance, func) {
            Some(list) => contents(list.as_le_slice(&*self.store)),
            None => contents(&[]),
        }
    }

    async fn call_func_ret_s32(&mut self, instance: &str, func: &str) -> i32 {
        self.call(instance, func).unwrap_or_default()
    }

    async fn call_func_ret_s64(&mut self, instance: &str, func: &str) -> i64 {
        self.call(instance, func).unwrap_or_default()
    }

    async fn call_func_ret_f32(&mut self, instance: &str, func: &str) -> u32 {
        self.call::<f32>(instance, func).map_or(0, f32::to_bits)
    }

    async fn call_func_ret_f64(&mut self, instance: &str, func: &str) -> u64 {
        self.call::<f64>(instance, func).map_or(0, f64::to_bits)
    }
}

/// Runs a future that never waits: everything it awaits is ready at once.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut context) {
            return output;
        }
        std::thread::yield_now();
    }
}

/// Compiles WebAssembly for this engine, in memory.
pub(crate) fn compile(engine: &wasmtime::Engine, wasm: &[u8]) -> Result<Component> {
    Component::from_binary(engine, wasm)
}

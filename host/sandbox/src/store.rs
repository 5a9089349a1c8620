//! A fresh store with every limit in place: the first thing of each sandbox.

use maquette_tensor::gate;
use wasmtime::{Store, UpdateDeadline};

use crate::engine::Engine;
use crate::state::State;

/// Handles that a guest may hold beyond tensors, programs and files.
const MAX_HANDLES: usize = 4 * crate::slab::MAX_LIVE as usize;

/// Creates the store. Its epoch callback looks at the deadline and at cancellation on every tick of the clock.
pub(crate) fn new(engine: &Engine, state: State) -> Store<State> {
    let memory = usize::try_from(state.package.limits.memory_bytes).unwrap_or(usize::MAX);
    let mut store = Store::new(engine.wasmtime(), state);
    if !engine.guarded() {
        return store;
    }
    store.limiter(|state| &mut state.limiter);
    // What one host call may copy out of the guest: no more than the guest can hold.
    store.set_hostcall_fuel(memory);
    store.set_max_component_handles(MAX_HANDLES);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(|context| {
        let state = context.data();
        // Whoever stands back waits here, where it is in nobody's way.
        gate::pass(&|| state.stop().is_some());
        match state.stop() {
            Some(stop) => Err(stop.into()),
            None => Ok(UpdateDeadline::Continue(1)),
        }
    });
    store
}

//! Where a thread that stands back waits while others need the processors. The scheduler's own means are not enough: a thread that has
//! little of the processors may be put aside, or woken late, with a lock of the kernel's in its hands that everybody needs. Here it
//! holds none.

use std::cell::{Cell, OnceCell};
use std::time::Duration;

/// Returns when the thread may go on, or soon after the function that it is given says that what it does has to stop; says how long the
/// thread has waited.
type Gate = Box<dyn Fn(&dyn Fn() -> bool) -> Duration>;

thread_local! {
    static GATE: OnceCell<Gate> = const { OnceCell::new() };
    static WAITED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// From now on this thread waits at `gate` wherever it may. A thread has one gate; a second is ignored.
pub fn wait_at(gate: Gate) {
    GATE.with(|own| {
        let _ = own.set(gate);
    });
}

/// A place where the thread holds nothing that others wait for. `stops` tells whether what it does has to stop.
pub fn pass(stops: &dyn Fn() -> bool) {
    GATE.with(|own| {
        if let Some(gate) = own.get() {
            WAITED.set(WAITED.get() + gate(stops));
        }
    });
}

/// How long this thread has waited at its gate, in all.
pub fn waited() -> Duration {
    WAITED.get()
}

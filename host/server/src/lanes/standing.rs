//! How a lane's thread stands: what the gate and the team of kernel threads know of it, and what it has worked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::gate::{Gate, Pass};
use crate::scheduling;

/// A thread that runs guests.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    pass: Arc<Pass>,
    /// Set while others go before its call: its kernels work on this thread alone.
    alone: Arc<AtomicBool>,
    began: Instant,
}

impl Standing {
    /// Of the thread that calls it, the `number`th, which from now on stands back behind others by `nice`.
    pub(super) fn own(number: usize, nice: i32, gate: &Arc<Gate>) -> Self {
        scheduling::works(nice);
        let pass = Arc::new(Pass::new(Arc::clone(gate), number));
        let own = Arc::clone(&pass);
        maquette_tensor::gate::wait_at(Box::new(move |stops| own.pass(stops)));
        let alone = Arc::default();
        maquette_tensor::alone_while(Arc::clone(&alone));
        Self {
            pass,
            alone,
            began: Instant::now(),
        }
    }

    /// Whether its call needs a place at the gate to go on, and whether its kernels leave the team to others. Returns whether it has to
    /// find out: it needed no place before.
    pub(super) fn stand(&self, held: bool, alone: bool) -> bool {
        self.alone.store(alone, Ordering::Relaxed);
        let before = self.pass.hold(held);
        held && !before
    }

    /// Its call has ended: others may have its place at the gate.
    pub(super) fn leave(&self) {
        self.alone.store(false, Ordering::Relaxed);
        self.pass.hold(false);
        self.pass.leave();
    }

    /// Time since it began, without what it has waited at the gate. Its differences are work.
    pub(super) fn worked(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
            .saturating_sub(self.pass.waited(now))
    }

    #[cfg(test)]
    pub(super) fn is_held(&self) -> bool {
        self.pass.is_held()
    }

    /// As if it had waited at the gate for so long.
    #[cfg(test)]
    pub(super) fn simulate_wait(&self, time: Duration) {
        self.pass.simulate_wait(time);
    }
}

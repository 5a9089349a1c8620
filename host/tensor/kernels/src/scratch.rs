//! A little memory that each thread keeps for kernels to pack their operands into.

use std::cell::Cell;

/// Floats that there are: 128 KiB, a part of the second-level cache.
pub(crate) const SCRATCH: usize = 32 << 10;

thread_local! {
    static KEPT: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Calls a function with [`SCRATCH`] floats of any values, and `more` of them.
pub(crate) fn with_scratch<R>(more: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut memory = KEPT.take();
    memory.resize(memory.len().max(SCRATCH + more), 0.0);
    let result = work(&mut memory[..SCRATCH + more]);
    KEPT.set(memory);
    result
}

//! An output split between threads, each of which writes a part of its own.

use crate::parallel;
use crate::parts::Parts;
use crate::stop::spend;

/// The most tasks of a kernel whose tasks take memory of their own: that bounds the memory, however many threads there are.
pub const WORKERS: usize = 32;

/// Work of one task at least, in nanoseconds: less is not worth handing out.
const GRAIN: u64 = 20_000;

/// Work of one step of a task, in nanoseconds, about.
const STEP: u64 = 200_000;

/// Calls `task(first, part)` for parts of `out` that together are all of it; each is a whole number of units of `unit` elements,
/// of which `first` is the number of the first. The work takes about `nanoseconds` in all; there are at most [`WORKERS`] tasks, each of
/// which may come in several calls.
///
/// # Panics
/// If `out` is not a whole number of units.
pub fn groups<T: Send>(out: &mut [T], unit: usize, nanoseconds: u64, task: impl Fn(usize, &mut [T]) + Sync) {
    if out.is_empty() {
        return;
    }
    assert!(
        unit > 0 && out.len().is_multiple_of(unit),
        "{} elements in units of {unit}",
        out.len()
    );
    let units = out.len() / unit;
    let tasks = units.min((nanoseconds / GRAIN).clamp(1, WORKERS as u64) as usize);
    let parts = Parts::new(out, unit);
    // A large task is done in steps, so that it can be stopped between them.
    let each = (nanoseconds / units as u64).max(1);
    let step = usize::try_from(STEP / each).unwrap_or(usize::MAX).max(1);
    parallel(tasks, nanoseconds, |i| {
        let (from, to) = (i * units / tasks, (i + 1) * units / tasks);
        for from in (from..to).step_by(step) {
            let to = to.min(from.saturating_add(step));
            spend(each.saturating_mul((to - from) as u64));
            // SAFETY: the units of different tasks, and of different steps, do not overlap.
            task(from, unsafe { parts.range(from * unit..to * unit) });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_visited_once() {
        for units in [0, 1, 2, 31, 32, 33, 100] {
            let mut out = vec![0; units * 3];
            groups(&mut out, 3, 1 << 40, |first, part| {
                for (i, unit) in part.chunks_mut(3).enumerate() {
                    unit.iter_mut().for_each(|x| *x += first + i + 1);
                }
            });
            assert!(out.iter().enumerate().all(|(i, x)| *x == i / 3 + 1));
        }
    }
}

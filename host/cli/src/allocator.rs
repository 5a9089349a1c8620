//! The allocator of the binary: the system's, which is told to let go of what is large bit by bit.
//!
//! Unmapping hundreds of megabytes takes tens of milliseconds, in which the kernel keeps every other thread from mapping memory, as each
//! sandbox does. Emptied before, it takes none. What is smaller is kept by the allocator for the next one who asks.

use std::alloc::{GlobalAlloc, Layout, System};

use rustix::mm::{Advice, madvise};

/// From so many bytes on glibc maps memory for one allocation alone and unmaps it with it (`DEFAULT_MMAP_THRESHOLD_MAX`).
const MAPPED: usize = 32 << 20;

/// How much is emptied at once.
const STEP: usize = 4 << 20;

/// Where a step begins; on a system with larger pages nothing is emptied before.
const PAGE: usize = 4096;

/// See the module.
pub(crate) struct Allocator;

// SAFETY: all memory is the system allocator's own, by the same layout.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if layout.size() >= MAPPED {
            // SAFETY: the caller gives it up.
            unsafe { empty(memory, layout.size()) };
        }
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Gives the pages that lie wholly inside back to the kernel.
///
/// # Safety
/// Nobody may read the memory any more.
unsafe fn empty(memory: *mut u8, size: usize) {
    let first = memory.align_offset(PAGE);
    let end = size.saturating_sub((memory as usize).wrapping_add(size) % PAGE);
    let mut at = first;
    while at < end {
        let step = STEP.min(end - at);
        // SAFETY: whole pages inside an allocation whose contents nobody reads any more.
        let emptied = unsafe { madvise(memory.add(at).cast(), step, Advice::LinuxDontNeed) };
        if emptied.is_err() {
            // They are unmapped all the same.
            return;
        }
        at += step;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_memory_is_given_back_and_can_be_had_again() {
        for align in [1, 64, 8192] {
            for size in [MAPPED, MAPPED + 1, MAPPED + 12_345, 3 * STEP + MAPPED] {
                let layout = Layout::from_size_align(size, align).unwrap_or_else(|e| panic!("{e}"));
                // SAFETY: the layout is not empty; what is written lies inside, and it is given back once.
                unsafe {
                    let memory = Allocator.alloc_zeroed(layout);
                    assert!(!memory.is_null());
                    memory.write(1);
                    memory.add(size - 1).write(1);
                    Allocator.dealloc(memory, layout);
                }
            }
        }
    }
}

//! Memory for packed weights: it begins where a line of the cache does, and large pieces lie in huge pages, so that streaming
//! through them neither splits loads nor misses the table of pages.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::ptr::NonNull;

use crate::gemm::Shared;
use crate::parallel;

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// Floats that are zeroed at once.
const ZEROED: usize = 64 << 10;

/// Zeroed bytes that never move.
#[derive(Debug)]
pub(crate) struct Lines {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory, as a vector does.
unsafe impl Send for Lines {}
// SAFETY: as above; a shared reference only reads.
unsafe impl Sync for Lines {}

impl Lines {
    /// So many bytes, all zero.
    ///
    /// # Panics
    /// If they are more than the address space.
    pub(crate) fn zeroed(bytes: usize) -> Self {
        let align = if bytes >= HUGE { HUGE } else { LINE };
        let layout = Layout::from_size_align(bytes.next_multiple_of(LINE).max(LINE), align);
        let Ok(layout) = layout else {
            panic!("{bytes} bytes are more than the address space");
        };
        // SAFETY: the size is not 0.
        let Some(start) = NonNull::new(unsafe { alloc(layout) }) else {
            handle_alloc_error(layout)
        };
        #[cfg(target_os = "linux")]
        if bytes >= HUGE {
            let advice = rustix::mm::Advice::LinuxHugepage;
            // SAFETY: the range is this allocation's own; the advice changes no contents. Where it is refused, nothing is lost.
            let _ = unsafe { rustix::mm::madvise(start.as_ptr().cast(), layout.size(), advice) };
        }
        let lines = Self { start, layout };
        // The first write to memory takes longer than the later ones do: every thread that is free takes part.
        let floats = layout.size() / 4;
        let memory = Shared(start.as_ptr().cast());
        parallel(floats.div_ceil(ZEROED), floats as u64, |piece| {
            let from = piece * ZEROED;
            // SAFETY: inside the memory, which is all lines; no other task has these floats.
            unsafe { memory.at(from).write_bytes(0, ZEROED.min(floats - from)) };
        });
        lines
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the memory is that long, and was zeroed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.layout.size()) }
    }

    pub(crate) fn floats(&self) -> &[f32] {
        // SAFETY: as above; it is aligned to lines, and any bits are a float.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().cast(), self.layout.size() / 4) }
    }

    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().cast(), self.layout.size() / 4) }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and dropped once.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_aligned_zeroed_and_its_own() {
        for bytes in [0, 1, 64, 1000, HUGE, HUGE + 1] {
            let mut lines = Lines::zeroed(bytes);
            assert!(lines.bytes().len() >= bytes && lines.bytes().iter().all(|byte| *byte == 0));
            assert_eq!(lines.bytes().as_ptr() as usize % LINE, 0);
            lines.bytes_mut().fill(7);
            assert_eq!(lines.floats().len(), lines.bytes().len() / 4);
        }
    }
}

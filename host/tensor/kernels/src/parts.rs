//! A slice cut into parts that several threads take, each its own.

use std::marker::PhantomData;

/// Parts of a slice, all of one length but the last.
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    len: usize,
    part: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a part is taken by one thread alone, as `take` demands.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// Parts of `part` elements.
    pub(crate) fn new(slice: &'a mut [T], part: usize) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            part,
            slice: PhantomData,
        }
    }

    /// Elements of the whole slice.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One part.
    ///
    /// # Safety
    /// No part may be taken twice.
    #[allow(clippy::mut_from_ref, reason = "each part is taken once")]
    pub(crate) unsafe fn take(&self, at: usize) -> &'a mut [T] {
        let from = at * self.part;
        assert!(from < self.len, "there are fewer than {at} parts");
        let len = self.part.min(self.len - from);
        // SAFETY: inside the slice, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

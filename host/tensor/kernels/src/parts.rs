//! A slice cut into parts that several threads take, each its own.

use std::marker::PhantomData;
use std::ops::Range;

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
        // SAFETY: nobody else has it, as the caller promises.
        unsafe { self.range(from..from + self.part.min(self.len - from)) }
    }

    /// Where an element is.
    ///
    /// # Safety
    /// No two threads may write the same elements.
    pub(crate) unsafe fn pointer(&self, at: usize) -> *mut T {
        assert!(at < self.len, "element {at} of {}", self.len);
        // SAFETY: inside the slice.
        unsafe { self.start.add(at) }
    }

    /// Some elements, whatever parts they are in.
    ///
    /// # Safety
    /// No element may be taken twice.
    #[allow(clippy::mut_from_ref, reason = "each element is taken once")]
    pub(crate) unsafe fn range(&self, elements: Range<usize>) -> &'a mut [T] {
        assert!(
            elements.start <= elements.end && elements.end <= self.len,
            "{elements:?} of {} elements",
            self.len
        );
        // SAFETY: inside the slice, and nobody else has them, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(elements.start), elements.len()) }
    }
}

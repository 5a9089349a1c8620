//! Pages of a key-value cache, laid out as attention reads them, so that a step of decoding copies nothing.

use crate::gemm::NR;

/// Places in time of a page.
pub const PAGE: usize = 64;

/// Keys and values of [`PAGE`] places in time, of every head.
///
/// Keys of a head lie as panels of columns (`[PAGE / 32, width, 32]`), values as panels of rows (`[value width / 32, PAGE, 32]`, padded
/// with zeros): the right sides of the two products of attention.
#[derive(Clone, Debug)]
pub struct Page {
    heads: usize,
    width: usize,
    value_width: usize,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Page {
    /// A page of zeros.
    pub fn new(heads: usize, width: usize, value_width: usize) -> Self {
        Self {
            heads,
            width,
            value_width,
            keys: vec![0.0; heads * width * PAGE],
            values: vec![0.0; heads * value_width.next_multiple_of(NR) * PAGE],
        }
    }

    /// How many bytes such a page takes.
    pub fn bytes(heads: u64, width: u64, value_width: u64) -> u64 {
        let row = width.saturating_add(value_width.next_multiple_of(NR as u64));
        heads.saturating_mul(row).saturating_mul(4 * PAGE as u64)
    }

    pub(crate) fn fits(&self, heads: usize, width: usize, value_width: usize) -> bool {
        (self.heads, self.width, self.value_width) == (heads, width, value_width)
    }

    /// Puts a key `[width]` of a head at a place.
    ///
    /// # Panics
    /// If there is no such head or place, or the vector is of another size.
    pub fn set_key(&mut self, place: usize, head: usize, key: &[f32]) {
        assert!(place < PAGE && head < self.heads, "place {place}, head {head}");
        assert!(key.len() == self.width, "a key of {}, not {}", key.len(), self.width);
        let panel = &mut self.keys[head * self.width * PAGE + place / NR * NR * self.width..][..NR * self.width];
        for (row, element) in panel.chunks_exact_mut(NR).zip(key) {
            row[place % NR] = *element;
        }
    }

    /// Puts a value `[value width]` of a head at a place.
    ///
    /// # Panics
    /// As [`Page::set_key`].
    pub fn set_value(&mut self, place: usize, head: usize, value: &[f32]) {
        assert!(place < PAGE && head < self.heads, "place {place}, head {head}");
        assert!(
            value.len() == self.value_width,
            "a value of {}, not {}",
            value.len(),
            self.value_width
        );
        let padded = self.value_width.next_multiple_of(NR);
        let panels = &mut self.values[head * padded * PAGE..][..padded * PAGE];
        for (panel, part) in panels.chunks_exact_mut(NR * PAGE).zip(value.chunks(NR)) {
            panel[place * NR..][..part.len()].copy_from_slice(part);
        }
    }

    /// The keys of a head.
    pub(crate) fn keys(&self, head: usize) -> &[f32] {
        &self.keys[head * self.width * PAGE..][..self.width * PAGE]
    }

    /// The values of a head.
    pub(crate) fn values(&self, head: usize) -> &[f32] {
        let padded = self.value_width.next_multiple_of(NR);
        &self.values[head * padded * PAGE..][..padded * PAGE]
    }
}

//! What is in a file of weights, and where.

use std::collections::BTreeMap;

/// The most tensors and the most aliases of a file.
pub(super) const MAX_TENSORS: u32 = 100_000;
/// The most bytes that all names of a file have together.
pub(super) const MAX_NAMES: usize = 8 << 20;
/// The most dimensions of a tensor.
pub(super) const MAX_RANK: u8 = 8;

/// The tensors of a file by their names.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) tensors: BTreeMap<String, Place>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// Where a tensor's bytes are, and what they mean.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dtype: DType,
    pub(super) dims: Vec<u32>,
    pub(super) start: u64,
    pub(super) len: u64,
}

/// Types of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DType {
    F32,
    F16,
    BF16,
    I32,
    I16,
    I8,
}

impl DType {
    /// As safetensors calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
        }
    }

    /// Bytes of an element.
    pub(super) fn size(self) -> u64 {
        match self {
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 => 1,
        }
    }
}

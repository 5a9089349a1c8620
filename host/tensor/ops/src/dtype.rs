//! The element types of tensors.

use std::fmt;
use std::str::FromStr;

use crate::error::Error;

/// An element type: the WIT's `dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
    /// Unsigned 8-bit; what comparisons return.
    U8,
    /// Unsigned 32-bit; the usual type of indices.
    U32,
    /// Signed 64-bit; also indices.
    I64,
}

impl DType {
    /// Every element type, in the WIT's order.
    pub const ALL: [Self; 6] = [Self::F32, Self::F16, Self::BF16, Self::U8, Self::U32, Self::I64];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::F32 | Self::U32 => 4,
            Self::I64 => 8,
        }
    }

    /// The type as the WIT spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::U8 => "u8",
            Self::U32 => "u32",
            Self::I64 => "i64",
        }
    }

    /// Whether it is a floating-point type.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// Whether it is an integer type.
    pub const fn is_int(self) -> bool {
        !self.is_float()
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == text)
            .ok_or_else(|| Error::dtype(format!("`{text}` is no dtype; they are f32, f16, bf16, u8, u32, i64")))
    }
}

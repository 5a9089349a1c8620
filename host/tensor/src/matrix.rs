//! The weight of a linear layer, packed for its kernel.

use maquette_kernels::gemm::{self, Epilogue, Packed};
use maquette_kernels::quantized::{self, Quantized};

/// A weight `[out, in]`.
#[derive(Debug)]
pub(crate) enum Matrix {
    /// As f32.
    Plain(Packed),
    /// As the file has it, in few bits.
    Quantized(Quantized),
}

impl Matrix {
    /// `out = epilogue(x * weight^T)` for `x` `[m, in]`, `out` `[m, out]`.
    pub(crate) fn product(&self, x: &[f32], m: usize, out: &mut [f32], epilogue: &Epilogue<'_>) {
        match self {
            Self::Plain(packed) => gemm::product(x, m, packed, out, epilogue),
            Self::Quantized(packed) => quantized::product(x, m, packed, out, epilogue),
        }
    }

    /// Bytes that a product with `m` rows of `k` takes beside its output.
    pub(crate) fn product_bytes(&self, m: u64, k: u64) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Quantized(_) => quantized::product_bytes(m, k),
        }
    }
}

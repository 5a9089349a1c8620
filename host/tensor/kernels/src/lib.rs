//! CPU kernels on plain slices: what candle lacks or is slow at.
//!
//! Nothing here knows of tensors, budgets or candle. A kernel takes slices and sizes that its caller has checked, says what they
//! must be, and panics with a message where they are not; it allocates only what its documentation says. Results do not depend
//! on how many threads there are.

pub mod attention;
pub mod conv1d;
pub mod elementwise;
pub mod fft;
pub mod gemm;
pub mod groups;
pub mod kv;
pub mod math;
pub mod philox;
pub mod recurrent;
pub mod reduce;
pub mod resize1d;
pub mod sample;
pub mod scan;
pub mod select;
mod simd;
pub mod sort;
pub mod spectrum;
pub mod team;

pub use team::parallel;

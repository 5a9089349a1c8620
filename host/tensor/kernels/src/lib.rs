//! CPU kernels on plain slices: what candle lacks or is slow at.
//!
//! Nothing here knows of tensors, budgets or candle. A kernel takes slices and sizes that its caller has checked, says what they
//! must be, and panics with a message where they are not; it allocates only what its documentation says. Results do not depend
//! on how many threads there are. What takes long looks now and then whether it has to [stop].

pub mod activation;
pub mod attention;
pub mod channels;
pub mod conv;
pub mod conv1d;
mod conv_transpose;
mod depthwise;
pub mod elementwise;
pub mod fft;
pub mod gate;
pub mod gemm;
pub mod groups;
pub mod kv;
mod lines;
pub mod map;
pub mod math;
pub mod matmul;
pub mod norm;
mod parts;
pub mod philox;
pub mod pool;
pub mod quantized;
pub mod random;
pub mod recurrent;
pub mod reduce;
pub mod resize;
pub mod resize1d;
pub mod rope;
pub mod sample;
pub mod scan;
mod scratch;
pub mod select;
pub mod shuffle;
mod simd;
pub mod sort;
pub mod spectrum;
pub mod stop;
pub mod team;

pub use team::parallel;

//! Layers that load from weights, under the names that PyTorch's checkpoints use.

mod attention;
mod basic;
mod decoder;
mod sampling;

pub use attention::{SelfAttention, attention_bias};
pub use decoder::{Decoder, DecoderConfig, Names, RopeScaling};
pub use sampling::Sampling;

pub use basic::{Activation, Embedding, LayerNorm, Linear, RmsNorm};

//! Layers that load from weights, under the names that PyTorch's checkpoints use.

mod attention;
mod basic;

pub use attention::{SelfAttention, attention_bias};
pub use basic::{Activation, Embedding, LayerNorm, Linear, RmsNorm};

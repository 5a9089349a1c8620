//! Layers that load from weights, under the names that PyTorch's checkpoints use.

mod attention;
mod basic;
mod channels;
mod convolution;
mod decoder;
mod recurrent;
mod sampling;

pub use attention::{MultiHead, MultiHeadAttention, SelfAttention, attention_bias};
pub use channels::{BatchNorm2d, GroupNorm, Prelu};
pub use convolution::{Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d};
pub use decoder::{Decoder, DecoderConfig, Names, RopeScaling};
pub use recurrent::{Gru, GruOutput, Lstm, LstmOutput, RecurrentConfig};
pub use sampling::Sampling;

pub use basic::{Activation, Embedding, LayerNorm, Linear, RmsNorm};

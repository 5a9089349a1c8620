//! MiniLM written natively with candle-nn, as one would without a sandbox: what the sandbox is measured against.

use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::{Embedding, LayerNorm, Linear, Module as _, VarBuilder, embedding, layer_norm, linear};

const LAYERS: usize = 6;
const HEADS: usize = 12;
const HIDDEN: usize = 384;
const INTERMEDIATE: usize = 1536;
const VOCABULARY: usize = 30_522;
const POSITIONS: usize = 512;
const EPSILON: f64 = 1e-12;

/// The model.
pub(crate) struct Bert {
    words: Embedding,
    positions: Embedding,
    kinds: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    norm: LayerNorm,
    up: Linear,
    down: Linear,
    last: LayerNorm,
}

impl Bert {
    /// Reads the weights.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let weights = candle_core::safetensors::load(path, &Device::Cpu)?;
        let vb = VarBuilder::from_tensors(weights, DType::F32, &Device::Cpu);
        let e = vb.pp("embeddings");
        let layers = (0..LAYERS).map(|i| Layer::open(&vb.pp(format!("encoder.layer.{i}"))));
        Ok(Self {
            words: embedding(VOCABULARY, HIDDEN, e.pp("word_embeddings"))?,
            positions: embedding(POSITIONS, HIDDEN, e.pp("position_embeddings"))?,
            kinds: embedding(2, HIDDEN, e.pp("token_type_embeddings"))?,
            norm: layer_norm(HIDDEN, EPSILON, e.pp("LayerNorm"))?,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Texts of one length as ids `[batch, tokens]`; returns mean-pooled, normalised embeddings `[batch, 384]`. All tokens count,
    /// so there is no mask: the less work, the harder to keep up with.
    pub(crate) fn embed(&self, ids: &Tensor) -> Result<Vec<Vec<f32>>> {
        let (_, tokens) = ids.dims2()?;
        let positions = Tensor::arange(0_u32, u32::try_from(tokens).unwrap_or(u32::MAX), &Device::Cpu)?;
        let words = self.words.forward(ids)?;
        let kinds = self.kinds.forward(&ids.zeros_like()?)?;
        let x = (words + kinds)?.broadcast_add(&self.positions.forward(&positions)?)?;
        let mut x = self.norm.forward(&x)?;
        for layer in &self.layers {
            x = layer.forward(&x)?;
        }
        let mean = x.mean(1)?;
        let length = mean.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        mean.broadcast_div(&length)?.to_vec2()
    }
}

impl Layer {
    fn open(vb: &VarBuilder<'_>) -> Result<Self> {
        let attention = vb.pp("attention");
        Ok(Self {
            query: linear(HIDDEN, HIDDEN, attention.pp("self.query"))?,
            key: linear(HIDDEN, HIDDEN, attention.pp("self.key"))?,
            value: linear(HIDDEN, HIDDEN, attention.pp("self.value"))?,
            output: linear(HIDDEN, HIDDEN, attention.pp("output.dense"))?,
            norm: layer_norm(HIDDEN, EPSILON, attention.pp("output.LayerNorm"))?,
            up: linear(HIDDEN, INTERMEDIATE, vb.pp("intermediate.dense"))?,
            down: linear(INTERMEDIATE, HIDDEN, vb.pp("output.dense"))?,
            last: layer_norm(HIDDEN, EPSILON, vb.pp("output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, tokens, _) = x.dims3()?;
        let heads = |t: Tensor| {
            t.reshape((batch, tokens, HEADS, HIDDEN / HEADS))?
                .transpose(1, 2)?
                .contiguous()
        };
        let query = heads(self.query.forward(x)?)?;
        let key = heads(self.key.forward(x)?)?;
        let value = heads(self.value.forward(x)?)?;
        let scale = 1.0 / ((HIDDEN / HEADS) as f64).sqrt();
        let scores = (query.matmul(&key.t()?)? * scale)?;
        let weights = candle_nn::ops::softmax_last_dim(&scores)?;
        let context = weights
            .matmul(&value)?
            .transpose(1, 2)?
            .reshape((batch, tokens, HIDDEN))?;
        let x = self.norm.forward(&(self.output.forward(&context)? + x)?)?;
        let inner = self.up.forward(&x)?.gelu_erf()?;
        self.last.forward(&(self.down.forward(&inner)? + &x)?)
    }
}

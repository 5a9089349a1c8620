//! BERT's encoder. Source: "BERT" (Devlin et al., 2018), with the names of `BertModel` in Hugging Face's transformers.

use maquette::nn::{Activation, Embedding, LayerNorm, Linear, SelfAttention, attention_bias};
use maquette::{Result, Tensor, Weights};

const VOCABULARY: usize = 30_522;
const POSITIONS: usize = 512;
const SEGMENTS: usize = 2;
const WIDTH: usize = 384;
const INNER: usize = 1536;
const HEADS: usize = 12;
const LAYERS: usize = 6;
const EPS: f64 = 1e-12;

/// Token ids to one vector of 384 floats for each token.
pub(crate) struct Bert {
    words: Embedding,
    positions: Embedding,
    segments: Embedding,
    norm: LayerNorm,
    layers: Vec<Layer>,
}

struct Layer {
    attention: SelfAttention,
    attention_norm: LayerNorm,
    inner: Linear,
    outer: Linear,
    norm: LayerNorm,
}

impl Bert {
    pub(crate) fn load(weights: &Weights) -> Result<Self> {
        let embeddings = weights.pp("embeddings");
        let layers = (0..LAYERS).map(|i| Layer::load(&weights.pp("encoder.layer").pp(i)));
        Ok(Self {
            words: Embedding::load(VOCABULARY, WIDTH, &embeddings.pp("word_embeddings"))?,
            positions: Embedding::load(POSITIONS, WIDTH, &embeddings.pp("position_embeddings"))?,
            segments: Embedding::load(SEGMENTS, WIDTH, &embeddings.pp("token_type_embeddings"))?,
            norm: LayerNorm::load(WIDTH, EPS, &embeddings.pp("LayerNorm"))?,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Ids and mask `[batch, tokens]` (1 for tokens, 0 for padding) to `[batch, tokens, 384]`.
    pub(crate) fn forward(&self, ids: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (_, tokens) = ids.dims2()?;
        // Every text is one segment, the first.
        let place = (&self.positions.weight().narrow(0, 0, tokens)? + &self.segments.weight().narrow(0, 0, 1)?)?;
        let mut hidden = self.norm.forward(&(&self.words.forward(ids)? + &place)?)?;
        let bias = attention_bias(mask)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, &bias)?;
        }
        Ok(hidden)
    }
}

impl Layer {
    fn load(weights: &Weights) -> Result<Self> {
        let names = ["self.query", "self.key", "self.value", "output.dense"];
        Ok(Self {
            attention: SelfAttention::load(WIDTH, HEADS, names, &weights.pp("attention"))?,
            attention_norm: LayerNorm::load(WIDTH, EPS, &weights.pp("attention.output.LayerNorm"))?,
            inner: Linear::load(WIDTH, INNER, &weights.pp("intermediate.dense"))?,
            outer: Linear::load(INNER, WIDTH, &weights.pp("output.dense"))?,
            norm: LayerNorm::load(WIDTH, EPS, &weights.pp("output.LayerNorm"))?,
        })
    }

    fn forward(&self, x: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let attended = self
            .attention_norm
            .forward(&(x + &self.attention.forward(x, Some(bias))?)?)?;
        let inner = Activation::Gelu.forward(&self.inner.forward(&attended)?)?;
        self.norm.forward(&(&attended + &self.outer.forward(&inner)?)?)
    }
}

//! Decoder-only language models of Llama's family: Llama, Mistral, Qwen 2 and 3, SmolLM, told apart by their configuration alone.
//!
//! Sources: "LLaMA" (Touvron et al., 2023), "Mistral 7B" (Jiang et al., 2023), "Qwen3 Technical Report" (2025); names and sizes as
//! `config.json` of Hugging Face's transformers and as the metadata of llama.cpp's GGUF files have them.

mod config;
mod rope;

use super::RmsNorm;
use crate::{Attend, CacheSlot, DType, Dim, Error, KvCache, Program, Result, Tensor, Weights, compile};

pub use config::{DecoderConfig, Names};
pub use rope::RopeScaling;

/// Places of one run at most: longer prompts go in pieces, so that their memory is bounded.
const PIECE: usize = 512;

/// A decoder, ready to run.
pub struct Decoder {
    config: DecoderConfig,
    /// Ids and positions `[t]` to logits `[vocabulary]` of the last place, appending to a cache.
    last: Program,
}

impl Decoder {
    /// Records the decoder's program over these weights. Made for `load`.
    ///
    /// # Errors
    /// If the configuration makes no sense; whether the weights fit it, the first run finds out.
    pub fn load(config: DecoderConfig, weights: &Weights) -> Result<Self> {
        let last = compile(|program| {
            let t = program.dim("tokens");
            let ids = program.input("ids", DType::U32, (&t,))?;
            let positions = program.input("positions", DType::U32, (&t,))?;
            let cache = program.cache(config.cache());
            record(&config, weights, &t, &ids, &positions, cache)
        })?;
        Ok(Self { config, last })
    }

    /// What it is made of.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Its program: ids and positions `[t]` to logits `[vocabulary]` of the last place, appending to a cache.
    pub fn program(&self) -> &Program {
        &self.last
    }

    /// An empty cache for at most `capacity` places.
    ///
    /// # Errors
    /// `quota`.
    pub fn cache(&self, capacity: usize) -> Result<KvCache> {
        KvCache::new(&self.config.cache(), capacity)
    }

    /// Appends tokens to what the cache holds, and returns the logits `[vocabulary]` for what comes next.
    ///
    /// # Errors
    /// `invalid-input` if there are no tokens, one is not in the vocabulary, or the cache cannot hold them.
    pub fn forward(&self, ids: &[u32], cache: &KvCache) -> Result<Tensor> {
        let mut logits = None;
        let mut at = cache.len() as u32;
        for piece in ids.chunks(PIECE) {
            let positions: Vec<u32> = (at..).take(piece.len()).collect();
            at += piece.len() as u32;
            let ids = Tensor::from_slice(piece, (piece.len(),))?;
            let positions = Tensor::from_slice(&positions, (piece.len(),))?;
            logits = self.last.run_with(&[&ids, &positions], &[cache])?.pop();
        }
        logits.ok_or_else(|| Error::invalid_input("there are no tokens to go on from: the prompt is empty"))
    }
}

/// A tensor under a name of Hugging Face's, whatever the file calls it.
struct Part<'a> {
    config: &'a DecoderConfig,
    weights: &'a Weights,
}

impl Part<'_> {
    fn layer(&self, layer: usize, hugging_face: &str, gguf: &str) -> Weights {
        match self.config.names {
            Names::HuggingFace => self.weights.pp("model.layers").pp(layer).pp(hugging_face),
            Names::Gguf => self.weights.pp("blk").pp(layer).pp(gguf),
        }
    }

    fn top(&self, hugging_face: &str, gguf: &str) -> Weights {
        self.weights.pp(match self.config.names {
            Names::HuggingFace => hugging_face,
            Names::Gguf => gguf,
        })
    }

    /// `x * weight^T`, with the bias if there is one.
    fn linear(x: &Tensor, weights: &Weights, input: usize, output: usize, bias: bool) -> Result<Tensor> {
        let weight = weights.get("weight", (output, input))?;
        let bias = if bias {
            Some(weights.get("bias", (output,))?)
        } else {
            None
        };
        x.linear(&weight, bias.as_ref())
    }
}

fn record(
    config: &DecoderConfig,
    weights: &Weights,
    t: &Dim,
    ids: &Tensor,
    positions: &Tensor,
    cache: CacheSlot,
) -> Result<Tensor> {
    let c = config;
    let part = Part { config, weights };
    let table = part
        .top("model.embed_tokens", "token_embd")
        .get("weight", (c.vocabulary, c.width))?;
    let pairs = c.head_width / 2;
    let mut frequencies = Tensor::from_slice(&c.rope_scaling.frequencies(c.rope_base, pairs), (pairs,))?;
    if c.rope_table {
        // Both are known when the program is compiled: the host divides once.
        frequencies = (&frequencies / &weights.get(rope::TABLE, (pairs,))?)?;
    }
    let how = Attend {
        window: c.window,
        ..Attend::default()
    };
    let norm = |x: &Tensor, width: usize, weights: &Weights| RmsNorm::load(width, c.eps, weights)?.forward(x);
    let mut hidden = table.embedding(ids)?.unsqueeze(0)?;
    for layer in 0..c.layers {
        let attention = |name: &str, gguf: &str| part.layer(layer, &format!("self_attn.{name}"), gguf);
        let x = norm(&hidden, c.width, &part.layer(layer, "input_layernorm", "attn_norm"))?;
        let split = |name: &str, gguf: &str, heads: usize| {
            let weights = attention(name, gguf);
            let x = Part::linear(&x, &weights, c.width, heads * c.head_width, c.qkv_bias)?;
            x.reshape((1, t, heads, c.head_width))
        };
        let mut q = split("q_proj", "attn_q", c.heads)?;
        let mut k = split("k_proj", "attn_k", c.kv_heads)?;
        let v = split("v_proj", "attn_v", c.kv_heads)?;
        if c.qk_norm {
            q = norm(&q, c.head_width, &attention("q_norm", "attn_q_norm"))?;
            k = norm(&k, c.head_width, &attention("k_norm", "attn_k_norm"))?;
        }
        let q = q.rope_with(positions, &frequencies, c.interleaved)?;
        let k = k.rope_with(positions, &frequencies, c.interleaved)?;
        let mixed = q.cached_attention(&k, &v, cache, layer, how)?;
        let mixed = mixed.reshape((1, t, c.heads * c.head_width))?;
        let weights = attention("o_proj", "attn_output");
        hidden = (&hidden + &Part::linear(&mixed, &weights, c.heads * c.head_width, c.width, false)?)?;

        let x = norm(
            &hidden,
            c.width,
            &part.layer(layer, "post_attention_layernorm", "ffn_norm"),
        )?;
        let gate = Part::linear(
            &x,
            &part.layer(layer, "mlp.gate_proj", "ffn_gate"),
            c.width,
            c.inner,
            false,
        )?;
        let up = Part::linear(&x, &part.layer(layer, "mlp.up_proj", "ffn_up"), c.width, c.inner, false)?;
        let inner = (&gate.silu()? * &up)?;
        let down = part.layer(layer, "mlp.down_proj", "ffn_down");
        hidden = (&hidden + &Part::linear(&inner, &down, c.inner, c.width, false)?)?;
    }
    let last = hidden.narrow(1, t - &Dim::from(1_usize), 1)?;
    let last = norm(&last, c.width, &part.top("model.norm", "output_norm"))?;
    let output = match c.tied {
        true => table,
        false => part.top("lm_head", "output").get("weight", (c.vocabulary, c.width))?,
    };
    last.linear(&output, None)?.flatten_all()
}

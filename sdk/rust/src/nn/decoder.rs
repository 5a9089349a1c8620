//! Decoder-only language models of Llama's family: Llama, Mistral, Qwen 2 and 3, SmolLM, told apart by their configuration alone.
//!
//! Sources: "LLaMA" (Touvron et al., 2023), "Mistral 7B" (Jiang et al., 2023), "Qwen3 Technical Report" (2025); names and sizes as
//! `config.json` of Hugging Face's transformers and as the metadata of llama.cpp's GGUF files have them.

use serde_json::Value;

use super::RmsNorm;
use crate::{Attend, CacheSlot, CacheSpec, DType, Dim, Error, KvCache, Program, Result, Tensor, Weights, compile};

/// Places of one run at most: longer prompts go in pieces, so that their memory is bounded.
const PIECE: usize = 512;

/// The longest context that is served, whatever a configuration promises.
const MAX_CONTEXT: usize = 1 << 20;

/// What a decoder is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderConfig {
    /// Tokens that it knows.
    pub vocabulary: usize,
    /// Elements of a hidden vector.
    pub width: usize,
    /// Elements between the two halves of a feed-forward layer.
    pub inner: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_width: usize,
    /// What normalisations add to the mean square.
    pub eps: f64,
    /// The base of the rotary embedding's frequencies.
    pub rope_base: f64,
    /// What becomes of the frequencies of long-context models.
    pub rope_scaling: RopeScaling,
    /// Whether the rotary embedding turns neighbours, as GGUF's `llama` has it, or halves.
    pub interleaved: bool,
    /// How many places back a query sees, if not all.
    pub window: Option<usize>,
    /// Whether queries, keys and values have biases (Qwen 2).
    pub qkv_bias: bool,
    /// Whether queries and keys are normalised head by head (Qwen 3).
    pub qk_norm: bool,
    /// Whether the output layer is the embedding table.
    pub tied: bool,
    /// Places that it was made for.
    pub context: usize,
    /// How its tensors are called.
    pub names: Names,
}

/// How the tensors of a decoder are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// `model.layers.0.self_attn.q_proj.weight`, as in Hugging Face's checkpoints.
    HuggingFace,
    /// `blk.0.attn_q.weight`, as in GGUF files.
    Gguf,
}

/// What becomes of the rotary embedding's frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    None,
    /// All are divided.
    Linear {
        /// By this.
        factor: f64,
    },
    /// Low ones are divided, high ones are kept, those between are in between: Llama 3.1.
    Llama3 {
        /// What low ones are divided by.
        factor: f64,
        /// Wavelengths longer than the original context over this are low.
        low: f64,
        /// Wavelengths shorter than the original context over this are high.
        high: f64,
        /// The context that the model was first made for.
        context: f64,
    },
}

fn missing(what: &str, key: &str) -> Error {
    Error::unsupported(format!(
        "{what} has no usable `{key}`: it is not of a decoder that this SDK knows"
    ))
}

impl DecoderConfig {
    /// From a `config.json` of Hugging Face's transformers: `model_type` `llama`, `mistral`, `qwen2` or `qwen3`.
    ///
    /// # Errors
    /// `unsupported`, naming the key, if it is the configuration of something else.
    pub fn from_json(config: &Value) -> Result<Self> {
        let what = "config.json";
        let number = |key: &str| {
            let value = config[key].as_u64().and_then(|value| usize::try_from(value).ok());
            value.filter(|value| *value > 0)
        };
        let need = |key: &str| number(key).ok_or_else(|| missing(what, key));
        let kind = config["model_type"].as_str().unwrap_or("nothing");
        if !["llama", "mistral", "qwen2", "qwen3"].contains(&kind) {
            return Err(Error::unsupported(format!(
                "{what}: `model_type` is `{kind}`; this decoder is llama, mistral, qwen2 or qwen3"
            )));
        }
        match config["hidden_act"].as_str() {
            None | Some("silu") => {}
            Some(other) => {
                return Err(Error::unsupported(format!(
                    "{what}: `hidden_act` is `{other}`, not `silu`"
                )));
            }
        }
        let (width, heads) = (need("hidden_size")?, need("num_attention_heads")?);
        // Newer files keep what concerns rope together.
        let rope = |key: &str| {
            let places = [
                &config["rope_parameters"][key],
                &config["rope_scaling"][key],
                &config[key],
            ];
            places
                .into_iter()
                .find(|value| !value.is_null())
                .cloned()
                .unwrap_or_default()
        };
        let scaling = rope("rope_type").as_str().or(rope("type").as_str()).map(str::to_owned);
        let factor = |key: &str| {
            rope(key)
                .as_f64()
                .filter(|v| *v > 0.0)
                .ok_or_else(|| missing(what, key))
        };
        let rope_scaling = match scaling.as_deref() {
            None | Some("default") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear {
                factor: factor("factor")?,
            },
            Some("llama3") => RopeScaling::Llama3 {
                factor: factor("factor")?,
                low: factor("low_freq_factor")?,
                high: factor("high_freq_factor")?,
                context: factor("original_max_position_embeddings")?,
            },
            Some(other) => {
                return Err(Error::unsupported(format!(
                    "{what}: rope scaling `{other}` is not known to this SDK"
                )));
            }
        };
        let windowed = kind == "mistral" || config["use_sliding_window"] == true;
        if config["use_sliding_window"] == true && config["max_window_layers"].as_u64().unwrap_or(0) > 0 {
            return Err(Error::unsupported(format!(
                "{what}: a sliding window in some layers only is not known to this SDK"
            )));
        }
        let decoder = Self {
            vocabulary: need("vocab_size")?,
            width,
            inner: need("intermediate_size")?,
            layers: need("num_hidden_layers")?,
            heads,
            kv_heads: number("num_key_value_heads").unwrap_or(heads),
            head_width: number("head_dim").unwrap_or(width / heads),
            eps: config["rms_norm_eps"].as_f64().unwrap_or(1e-6),
            rope_base: rope("rope_theta").as_f64().unwrap_or(10_000.0),
            rope_scaling,
            interleaved: false,
            window: number("sliding_window").filter(|_| windowed),
            qkv_bias: kind == "qwen2" || config["attention_bias"] == true,
            qk_norm: kind == "qwen3",
            tied: config["tie_word_embeddings"] == true,
            context: need("max_position_embeddings")?.min(MAX_CONTEXT),
            names: Names::HuggingFace,
        };
        decoder.check(what)
    }

    /// From the metadata of a GGUF file: `general.architecture` `llama`, `qwen2` or `qwen3`.
    ///
    /// # Errors
    /// `unsupported`, naming the key, if it is a file of something else.
    pub fn from_gguf(weights: &Weights) -> Result<Self> {
        let what = "the GGUF file";
        let text = |key: &str| weights.metadata(key);
        let architecture = text("general.architecture")?.ok_or_else(|| missing(what, "general.architecture"))?;
        if !["llama", "qwen2", "qwen3"].contains(&architecture.as_str()) {
            return Err(Error::unsupported(format!(
                "{what}: `general.architecture` is `{architecture}`; this decoder is llama, qwen2 or qwen3"
            )));
        }
        let float = |key: &str| -> Result<Option<f64>> {
            Ok(text(&format!("{architecture}.{key}"))?.and_then(|value| value.parse().ok()))
        };
        let number = |key: &str| -> Result<Option<usize>> {
            let value = text(&format!("{architecture}.{key}"))?;
            Ok(value.and_then(|value| value.parse().ok()).filter(|value| *value > 0))
        };
        let need = |key: &str| number(key)?.ok_or_else(|| missing(what, &format!("{architecture}.{key}")));
        let tensors = weights.list()?;
        let shape = |name: &str| {
            tensors
                .iter()
                .find(|(listed, _)| listed == name)
                .map(|(_, shape)| shape.clone())
        };
        let table = shape("token_embd.weight").ok_or_else(|| missing(what, "token_embd.weight"))?;
        let (width, heads) = (need("embedding_length")?, need("attention.head_count")?);
        let rope_scaling = match text(&format!("{architecture}.rope.scaling.type"))?.as_deref() {
            None | Some("none") => RopeScaling::None,
            Some("linear") => RopeScaling::Linear {
                factor: float("rope.scaling.factor")?.unwrap_or(1.0),
            },
            Some(other) => {
                return Err(Error::unsupported(format!(
                    "{what}: rope scaling `{other}` is not known to this SDK"
                )));
            }
        };
        if shape("rope_freqs.weight").is_some() {
            return Err(Error::unsupported(format!(
                "{what} scales its rotary frequencies by a table (`rope_freqs.weight`), which this SDK does not know: use safetensors"
            )));
        }
        let decoder = Self {
            vocabulary: table.first().map_or(0, |rows| *rows as usize),
            width,
            inner: need("feed_forward_length")?,
            layers: need("block_count")?,
            heads,
            kv_heads: number("attention.head_count_kv")?.unwrap_or(heads),
            head_width: number("attention.key_length")?.unwrap_or(width / heads),
            eps: float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rope_base: float("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling,
            interleaved: architecture == "llama",
            window: None,
            qkv_bias: shape("blk.0.attn_q.bias").is_some(),
            qk_norm: shape("blk.0.attn_q_norm.weight").is_some(),
            tied: shape("output.weight").is_none(),
            context: need("context_length")?.min(MAX_CONTEXT),
            names: Names::Gguf,
        };
        decoder.check(what)
    }

    fn check(self, what: &str) -> Result<Self> {
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::unsupported(format!(
                "{what}: {} heads cannot share {} heads of keys",
                self.heads, self.kv_heads
            )));
        }
        if self.head_width < 2 || !self.head_width.is_multiple_of(2) || self.layers > 1024 {
            return Err(Error::unsupported(format!(
                "{what}: {} layers with heads of {} elements are not possible",
                self.layers, self.head_width
            )));
        }
        Ok(self)
    }

    /// What a cache of its keys and values holds of each place.
    pub fn cache(&self) -> CacheSpec {
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        CacheSpec {
            layers: number(self.layers),
            heads: number(self.kv_heads),
            width: number(self.head_width),
            value_width: number(self.head_width),
        }
    }

    /// The rotary embedding's frequencies, scaled.
    fn frequencies(&self) -> Vec<f32> {
        let pairs = self.head_width / 2;
        let each = (0..pairs).map(|i| {
            let frequency = self.rope_base.powf(-(i as f64) / pairs as f64);
            let scaled = match self.rope_scaling {
                RopeScaling::None => frequency,
                RopeScaling::Linear { factor } => frequency / factor,
                RopeScaling::Llama3 {
                    factor,
                    low,
                    high,
                    context,
                } => {
                    let wavelength = std::f64::consts::TAU / frequency;
                    if wavelength > context / low {
                        frequency / factor
                    } else if wavelength < context / high {
                        frequency
                    } else {
                        let smooth = (context / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                }
            };
            scaled as f32
        });
        each.collect()
    }
}

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
    let frequencies = Tensor::from_slice(&c.frequencies(), (c.head_width / 2,))?;
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

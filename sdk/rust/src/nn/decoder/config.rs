//! What a decoder is made of, as `config.json` or the header of a GGUF file says.

use serde_json::Value;

use super::rope::{self, RopeScaling};
use crate::{CacheSpec, Error, Result, Weights};

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
    /// Whether the file has a table `rope_freqs.weight` `[head_width / 2]` that the frequencies are divided by after that, as GGUF files
    /// of Llama 3.1 and later have.
    pub rope_table: bool,
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

pub(super) fn missing(what: &str, key: &str) -> Error {
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
        // Left out, they would give other answers without a word.
        for key in ["mlp_bias", "attention_bias"] {
            if config[key] == true && kind != "qwen2" {
                return Err(Error::unsupported(format!(
                    "{what}: `{key}` is true: biases of {kind}'s layers are not known to this SDK"
                )));
            }
        }
        let (width, heads) = (need("hidden_size")?, need("num_attention_heads")?);
        let rope = |key: &str| rope::json(config, key);
        if rope("partial_rotary_factor").as_f64().is_some_and(|part| part != 1.0) {
            return Err(Error::unsupported(format!(
                "{what}: `partial_rotary_factor` is not 1: heads that are turned in part are not known to this SDK"
            )));
        }
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
            rope_scaling: RopeScaling::from_json(config)?,
            rope_table: false,
            interleaved: false,
            window: number("sliding_window").filter(|_| windowed),
            qkv_bias: kind == "qwen2",
            qk_norm: kind == "qwen3",
            tied: config["tie_word_embeddings"] == true,
            context: need("max_position_embeddings")?.min(MAX_CONTEXT),
            names: Names::HuggingFace,
        };
        decoder.check(what)
    }

    /// From the header of a GGUF file: `general.architecture` `llama`, `qwen2` or `qwen3`.
    ///
    /// # Errors
    /// `unsupported`, naming the key, if it is a file of something else.
    pub fn from_gguf(weights: &Weights) -> Result<Self> {
        Self::from_gguf_header(&|key| weights.metadata(key), &weights.list()?)
    }

    /// As [`DecoderConfig::from_gguf`], from metadata by key and the tensors' names and shapes.
    ///
    /// # Errors
    /// As [`DecoderConfig::from_gguf`], and what `text` says.
    pub fn from_gguf_header(
        text: &dyn Fn(&str) -> Result<Option<String>>,
        tensors: &[(String, Vec<u32>)],
    ) -> Result<Self> {
        let what = "the GGUF file";
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
        let shape = |name: &str| {
            tensors
                .iter()
                .find(|(listed, _)| listed == name)
                .map(|(_, shape)| shape.clone())
        };
        for other in ["blk.0.attn_output.bias", "blk.0.ffn_down.bias"] {
            if shape(other).is_some() {
                return Err(Error::unsupported(format!(
                    "{what} has the bias `{other}`, which this SDK does not know"
                )));
            }
        }
        let table = shape("token_embd.weight").ok_or_else(|| missing(what, "token_embd.weight"))?;
        let (width, heads) = (need("embedding_length")?, need("attention.head_count")?);
        let head_width = number("attention.key_length")?.unwrap_or(width / heads);
        let rope_table = rope::has_table(tensors, head_width / 2)?;
        if let Some(turned) = number("rope.dimension_count")?.filter(|turned| *turned != head_width) {
            return Err(Error::unsupported(format!(
                "{what}: {turned} of a head's {head_width} elements are turned; this SDK turns all"
            )));
        }
        let decoder = Self {
            vocabulary: table.first().map_or(0, |rows| *rows as usize),
            width,
            inner: need("feed_forward_length")?,
            layers: need("block_count")?,
            heads,
            kv_heads: number("attention.head_count_kv")?.unwrap_or(heads),
            head_width,
            eps: float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
            rope_base: float("rope.freq_base")?.unwrap_or(10_000.0),
            rope_scaling: RopeScaling::from_gguf(&architecture, text)?,
            rope_table,
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(key: &str, value: Value) -> Option<String> {
        let mut config = json!({
            "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "vocab_size": 96, "intermediate_size": 128,
            "num_hidden_layers": 2, "max_position_embeddings": 256,
        });
        config[key] = value;
        DecoderConfig::from_json(&config).err().map(|e| e.to_string())
    }

    #[test]
    fn what_would_be_computed_wrong_is_refused_by_its_key() {
        assert_eq!(config("attention_bias", json!(false)), None);
        for (key, value) in [
            ("attention_bias", json!(true)),
            ("mlp_bias", json!(true)),
            ("partial_rotary_factor", json!(0.5)),
            ("hidden_act", json!("gelu")),
            ("model_type", json!("gpt2")),
            ("vocab_size", json!(0)),
            ("num_key_value_heads", json!(3)),
        ] {
            let error = config(key, value);
            assert!(
                error.as_ref().is_some_and(|e| e.contains(key) || e.contains("heads")),
                "{key}: {error:?}"
            );
        }
    }
}

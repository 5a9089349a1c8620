//! The rotary embedding's frequencies, and what long-context models make of them. Sources: "RoFormer" (Su et al., 2021);
//! `modeling_rope_utils.py` of Hugging Face's transformers; `llama_model` of llama.cpp for the keys of GGUF files.

use serde_json::Value;

use super::config::missing;
use crate::{Error, Result};

/// What GGUF files call the table that frequencies are divided by.
pub(super) const TABLE: &str = "rope_freqs.weight";

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

/// What `config.json` says of rope: newer files keep it together, older ones have it in two places.
pub(super) fn json(config: &Value, key: &str) -> Value {
    let places = [
        &config["rope_parameters"][key],
        &config["rope_scaling"][key],
        &config[key],
    ];
    let found = places.into_iter().find(|value| !value.is_null());
    found.cloned().unwrap_or_default()
}

/// Whether a GGUF file has a table to divide frequencies by.
///
/// # Errors
/// `unsupported` if it has one that this SDK does not use right.
pub(super) fn has_table(tensors: &[(String, Vec<u32>)], pairs: usize) -> Result<bool> {
    let named = |name: &str| tensors.iter().find(|(listed, _)| listed == name);
    for other in ["rope_factors_long.weight", "rope_factors_short.weight"] {
        if named(other).is_some() {
            return Err(Error::unsupported(format!(
                "the GGUF file has two sets of rotary frequencies (`{other}`), which this SDK does not know"
            )));
        }
    }
    match named(TABLE) {
        Some((_, shape)) if *shape == [pairs as u32] => Ok(true),
        Some((_, shape)) => Err(Error::unsupported(format!(
            "the GGUF file's `{TABLE}` is {shape:?}; heads with {pairs} pairs need [{pairs}]"
        ))),
        None => Ok(false),
    }
}

impl RopeScaling {
    /// As `config.json` has it.
    pub(super) fn from_json(config: &Value) -> Result<Self> {
        let what = "config.json";
        let rope = |key: &str| json(config, key);
        let factor = |key: &str| {
            let value = rope(key).as_f64().filter(|value| *value > 0.0);
            value.ok_or_else(|| missing(what, key))
        };
        let scaling = rope("rope_type").as_str().or(rope("type").as_str()).map(str::to_owned);
        match scaling.as_deref() {
            None | Some("default") => Ok(Self::None),
            Some("linear") => Ok(Self::Linear {
                factor: factor("factor")?,
            }),
            Some("llama3") => {
                let (low, high) = (factor("low_freq_factor")?, factor("high_freq_factor")?);
                if low >= high {
                    return Err(Error::unsupported(format!(
                        "{what}: `low_freq_factor` is {low}, which is not below `high_freq_factor`, {high}"
                    )));
                }
                Ok(Self::Llama3 {
                    factor: factor("factor")?,
                    low,
                    high,
                    context: factor("original_max_position_embeddings")?,
                })
            }
            Some(other) => Err(unknown(what, other)),
        }
    }

    /// As the metadata of a GGUF file has it: a factor without a type is linear, and 0 is none.
    pub(super) fn from_gguf(architecture: &str, text: &dyn Fn(&str) -> Result<Option<String>>) -> Result<Self> {
        let what = "the GGUF file";
        let get = |key: &str| text(&format!("{architecture}.{key}"));
        match get("rope.scaling.type")?.as_deref() {
            Some("none") => return Ok(Self::None),
            None | Some("linear") => {}
            Some(other) => return Err(unknown(what, other)),
        }
        for key in ["rope.scaling.factor", "rope.scale_linear"] {
            let Some(value) = get(key)? else { continue };
            let factor = value.parse::<f64>().ok().filter(|factor| *factor >= 0.0);
            let factor = factor.ok_or_else(|| missing(what, &format!("{architecture}.{key}")))?;
            return Ok(if factor == 0.0 {
                Self::None
            } else {
                Self::Linear { factor }
            });
        }
        Ok(Self::None)
    }

    /// The frequencies of so many pairs, scaled.
    pub(super) fn frequencies(self, base: f64, pairs: usize) -> Vec<f32> {
        let each = (0..pairs).map(|i| self.scaled(base.powf(-(i as f64) / pairs as f64)) as f32);
        each.collect()
    }

    fn scaled(self, frequency: f64) -> f64 {
        match self {
            Self::None => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
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
        }
    }
}

fn unknown(what: &str, scaling: &str) -> Error {
    Error::unsupported(format!(
        "{what}: rope scaling `{scaling}` is not known to this SDK; `linear` and `llama3` are"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gguf_file_says_its_scaling_as_llama_cpp_reads_it() {
        let linear = |factor| Ok(RopeScaling::Linear { factor });
        type Row<'a> = (&'a [(&'a str, &'a str)], Result<RopeScaling>);
        let table: [Row<'_>; 6] = [
            (&[], Ok(RopeScaling::None)),
            (&[("llama.rope.scaling.factor", "4.0")], linear(4.0)),
            (&[("llama.rope.scale_linear", "2")], linear(2.0)),
            (
                &[
                    ("llama.rope.scaling.type", "linear"),
                    ("llama.rope.scaling.factor", "8"),
                ],
                linear(8.0),
            ),
            (
                &[("llama.rope.scaling.type", "none"), ("llama.rope.scaling.factor", "8")],
                Ok(RopeScaling::None),
            ),
            (&[("llama.rope.scaling.factor", "0.0")], Ok(RopeScaling::None)),
        ];
        for (keys, expected) in table {
            let text = |key: &str| Ok(keys.iter().find(|(k, _)| *k == key).map(|(_, v)| (*v).to_owned()));
            let found = RopeScaling::from_gguf("llama", &text);
            assert_eq!(found.ok(), expected.ok(), "{keys:?}");
        }
        for (key, value) in [
            ("llama.rope.scaling.type", "yarn"),
            ("llama.rope.scaling.factor", "-1"),
            ("llama.rope.scaling.factor", "NaN"),
            ("llama.rope.scaling.factor", "[1]"),
        ] {
            let text = |asked: &str| Ok((asked == key).then(|| value.to_owned()));
            let error = RopeScaling::from_gguf("llama", &text).err().map(|e| e.to_string());
            assert!(
                error.is_some_and(|e| e.contains("rope scal") || e.contains(key)),
                "{key}"
            );
        }
    }

    #[test]
    fn what_would_be_turned_wrong_is_refused() {
        let tensors = |name: &str, shape: &[u32]| vec![(name.to_owned(), shape.to_vec())];
        assert!(matches!(has_table(&[], 8), Ok(false)));
        assert!(matches!(has_table(&tensors(TABLE, &[8]), 8), Ok(true)));
        assert!(has_table(&tensors(TABLE, &[16]), 8).is_err());
        assert!(has_table(&tensors("rope_factors_long.weight", &[8]), 8).is_err());
        let config = |scaling: Value| RopeScaling::from_json(&serde_json::json!({ "rope_scaling": scaling }));
        for wrong in [
            serde_json::json!({"rope_type": "yarn", "factor": 4.0}),
            serde_json::json!({"rope_type": "linear"}),
            serde_json::json!({"rope_type": "linear", "factor": 0.0}),
            serde_json::json!({"rope_type": "llama3", "factor": 8.0}),
            serde_json::json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64}),
        ] {
            assert!(config(wrong.clone()).is_err(), "{wrong}");
        }
    }
}

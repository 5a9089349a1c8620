//! Choosing the next token in the host: logits never cross the boundary.

use maquette_ops::{Attr, Op};

use crate::ops::apply;
use crate::{Result, Tensor};

/// How the next token is chosen, as `sample/1` of the op table does.
#[derive(Clone, Copy, Debug)]
pub struct Sampling {
    /// 0 takes the likeliest; 1 as the model has learned; more is freer.
    pub temperature: f64,
    /// Only so many of the likeliest; 0 is all.
    pub top_k: usize,
    /// Only the likeliest that together have this probability; 1 is all.
    pub top_p: f64,
    /// Only those at least this much as likely as the likeliest; 0 is all.
    pub min_p: f64,
    /// Logits of tokens that have been said are divided by it, if positive, else multiplied; 1 is not at all.
    pub repetition_penalty: f64,
    /// The same seed chooses the same.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// A token from logits `[vocabulary]`; `said` counts for the repetition penalty, `step` is the number of the choice.
    ///
    /// # Errors
    /// `invalid-input` if a number is out of its range, a token is not in the vocabulary, or a logit is not a number.
    #[track_caller]
    pub fn next(&self, logits: &Tensor, said: &[u32], step: u64) -> Result<u32> {
        let attrs = vec![
            Attr::Float(self.temperature),
            Attr::Int(i64::try_from(self.top_k).unwrap_or(i64::MAX)),
            Attr::Float(self.top_p),
            Attr::Float(self.min_p),
            Attr::Float(self.repetition_penalty),
            // All bits of the seed count; its sign says nothing.
            Attr::Int(self.seed as i64),
            Attr::Int(step as i64),
        ];
        let chosen = if self.repetition_penalty == 1.0 || said.is_empty() {
            apply(Op::Sample, &[logits], attrs)?
        } else {
            let said = Tensor::from_slice(said, (said.len(),))?;
            apply(Op::Sample, &[logits, &said], attrs)?
        };
        chosen.to_scalar::<u32>()
    }
}

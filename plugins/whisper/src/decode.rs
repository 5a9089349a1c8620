//! The tokens of a window, one after the other: the likeliest that the rules allow. Source: OpenAI's `decoding.py`.

use maquette::prelude::*;

use crate::model::Heard;
use crate::vocabulary::{LANGUAGES, Vocabulary};
use crate::{Recording, Speech};

/// The most tokens of a window: half of the decoder's places.
const MAX_TOKENS: usize = 224;
/// The first time is at most one second: 50 steps.
const MAX_FIRST_TIME: u32 = 50;
/// Silence, if the model thinks so this much, and is not sure of its words either.
const SILENCE: (f64, f64) = (0.6, -1.0);

impl Speech {
    /// What the decoder is told before it begins, and the language.
    pub(crate) fn prompt(&self, heard: &Heard, input: &Recording) -> Result<(Vec<u32>, String)> {
        let v = &self.vocabulary;
        let mut ids = vec![v.start];
        if v.languages == 0 {
            if input.translate {
                return Err(Error::invalid_input("`translate`: this model hears English alone"));
            }
            return match input.language.as_deref() {
                None | Some("en") => Ok((ids, "en".to_owned())),
                Some(other) => Err(Error::invalid_input(format!(
                    "`language` is {other:?}; this model hears English (\"en\") alone"
                ))),
            };
        }
        let language = match &input.language {
            Some(code) => code.clone(),
            None => self.language(heard)?,
        };
        let Some(id) = v.language(&language) else {
            return Err(Error::invalid_input(format!(
                "`language` is {language:?}; this model knows {}",
                LANGUAGES[..v.languages].join(", ")
            )));
        };
        ids.extend([id, if input.translate { v.translate } else { v.transcribe }]);
        Ok((ids, language))
    }

    /// The language that is spoken: the likeliest token after the start.
    fn language(&self, heard: &Heard) -> Result<String> {
        let v = &self.vocabulary;
        let logits = self.whisper.listen(heard)?.next(&[v.start])?;
        let of = |at: &usize| {
            logits
                .get(v.start as usize + 1 + at)
                .copied()
                .unwrap_or(f32::NEG_INFINITY)
        };
        let best = (0..v.languages).max_by(|a, b| of(a).total_cmp(&of(b)));
        Ok(LANGUAGES[best.unwrap_or(0)].to_owned())
    }

    /// The tokens of what was heard, times among them if they are wanted.
    pub(crate) fn decode(&self, heard: &Heard, prompt: &[u32], timestamps: bool) -> Result<Vec<u32>> {
        let v = &self.vocabulary;
        let mut prompt = prompt.to_vec();
        if !timestamps {
            prompt.push(v.no_timestamps);
        }
        let listening = self.whisper.listen(heard)?;
        let mut logits = listening.next(&prompt)?;
        let silence = probability(&logits, v.no_speech);
        let (mut ids, mut sum) = (Vec::new(), 0.0);
        loop {
            v.allow(&mut logits, &ids, timestamps);
            let mut best = 0;
            for (i, logit) in logits.iter().enumerate() {
                if *logit > logits[best] {
                    best = i;
                }
            }
            let best = best as u32;
            sum += probability(&logits, best).ln();
            if best == v.end || ids.len() == MAX_TOKENS {
                break;
            }
            ids.push(best);
            logits = listening.next(&[best])?;
        }
        let sure = sum / (ids.len() + 1) as f64;
        if silence > SILENCE.0 && sure < SILENCE.1 {
            return Ok(Vec::new());
        }
        Ok(ids)
    }
}

fn probability(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|x| f64::from(x - most).exp()).sum();
    let own = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    f64::from(own - most).exp() / total
}

impl Vocabulary {
    /// Makes what may not come next impossible.
    fn allow(&self, logits: &mut [f32], ids: &[u32], timestamps: bool) {
        const NEVER: f32 = f32::NEG_INFINITY;
        let first = if ids.is_empty() {
            self.suppressed_first.as_slice()
        } else {
            &[]
        };
        for id in self.suppressed.iter().chain(first).chain([&self.no_timestamps]) {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit = NEVER;
            }
        }
        let time = self.time as usize;
        if logits.len() <= time {
            return;
        }
        if !timestamps {
            logits[time..].fill(NEVER);
            return;
        }
        // Times come in pairs, but for the first.
        let is_time = |at: usize| ids.len().checked_sub(at).is_none_or(|i| ids[i] >= self.time);
        let last = !ids.is_empty() && is_time(1);
        let before = ids.len() < 2 || is_time(2);
        match (last, before) {
            (true, true) => logits[time..].fill(NEVER),
            (true, false) => logits[..self.end as usize].fill(NEVER),
            _ => {}
        }
        // They never fall, and a piece is not empty.
        if let Some(latest) = ids.iter().rev().find(|id| **id >= self.time) {
            let from = *latest as usize + usize::from(!last || before);
            let from = from.min(logits.len());
            logits[time..from].fill(NEVER);
        }
        if ids.is_empty() {
            logits[..time].fill(NEVER);
            let from = (time + MAX_FIRST_TIME as usize + 1).min(logits.len());
            logits[from..].fill(NEVER);
        }
        // A time, if all times together are likelier than any text.
        let (text, times) = logits.split_at_mut(time);
        let most = times.iter().copied().fold(NEVER, f32::max);
        let together = f64::from(most) + times.iter().map(|x| f64::from(x - most).exp()).sum::<f64>().ln();
        let likeliest = text.iter().copied().fold(NEVER, f32::max);
        if most > NEVER && together > f64::from(likeliest) {
            text.fill(NEVER);
        }
    }
}

//! One token after the other, until something ends it.

use maquette::nn::Sampling;
use maquette::prelude::*;
use maquette::text::TextStream;

use crate::{Llama, Request};

/// How far back repetitions count.
const MEMORY: usize = 256;

impl Llama {
    pub(crate) fn generate(&self, prompt: &[u32], request: &Request) -> Result<StreamedText> {
        let context = self.decoder.config().context;
        if prompt.len() >= context {
            return Err(Error::invalid_input(format!(
                "the prompt is {} tokens long; this model takes {context}, and needs room to answer: shorten it",
                prompt.len()
            )));
        }
        let most = (request.max_tokens as usize).min(context - prompt.len());
        let sampling = Sampling {
            temperature: request.temperature,
            top_k: request.top_k as usize,
            top_p: request.top_p,
            min_p: request.min_p,
            repetition_penalty: request.repetition_penalty,
            seed: maquette::run::seed(),
        };
        let cache = self.decoder.cache(prompt.len() + most)?;
        let mut text = TextStream::new(&self.tokenizer);
        let mut output = Unstopped::new(request.stop.as_deref().unwrap_or_default());
        let mut said = prompt.to_vec();
        let mut logits = self.decoder.forward(prompt, &cache)?;
        let mut count = 0;
        let mut stopped = false;
        while count < most {
            let recent = &said[said.len().saturating_sub(MEMORY)..];
            let id = sampling.next(&logits, recent, count as u64)?;
            count += 1;
            if self.ends.contains(&id) {
                break;
            }
            said.push(id);
            stopped = match text.push(id) {
                Some(piece) => output.push(&piece)?,
                None => false,
            };
            if stopped || count == most {
                break;
            }
            logits = self.decoder.forward(&[id], &cache)?;
        }
        if !stopped {
            output.push(&text.finish())?;
        }
        maquette::run::metric("input_tokens", prompt.len() as f64);
        maquette::run::metric("output_tokens", count as f64);
        output.finish()
    }
}

/// Sends text, but nothing of a stop text: what could be the start of one is held back.
struct Unstopped<'a> {
    output: StreamedText,
    stops: &'a [String],
    held: String,
}

impl<'a> Unstopped<'a> {
    fn new(stops: &'a [String]) -> Self {
        Self {
            output: StreamedText::new(),
            stops,
            held: String::new(),
        }
    }

    /// Returns whether a stop text has come.
    fn push(&mut self, piece: &str) -> Result<bool> {
        self.held.push_str(piece);
        let stops = self.stops.iter().filter(|stop| !stop.is_empty());
        if let Some(at) = stops.clone().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return Ok(true);
        }
        // The longest end of what is held that a stop text could start with.
        let partial = |stop: &String| {
            let lengths = (1..stop.len()).rev().filter(|len| stop.is_char_boundary(*len));
            lengths
                .into_iter()
                .find(|len| self.held.ends_with(&stop[..*len]))
                .unwrap_or(0)
        };
        let keep = stops.map(partial).max().unwrap_or(0);
        let sent: String = self.held.drain(..self.held.len() - keep).collect();
        self.output.send(&sent)?;
        Ok(false)
    }

    fn finish(self) -> Result<StreamedText> {
        // Stopped, what is held comes before the stop text; otherwise it was the start of none.
        self.output.send(&self.held)?;
        Ok(self.output)
    }
}

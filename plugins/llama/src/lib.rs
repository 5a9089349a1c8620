//! Chat and text generation with any decoder of Llama's family: Llama, Mistral, Qwen 2 and 3, SmolLM.
//!
//! Which one it is, the package says: a GGUF file as the weights `model` has everything in it; with safetensors (one file, or
//! several), the assets `config.json`, `tokenizer.json` and `tokenizer_config.json` say the rest.

mod conversation;
mod generate;

use conversation::Conversation;
use maquette::nn::{Decoder, DecoderConfig};
use maquette::prelude::*;
use maquette::text::{ChatTemplate, Tokenizer};

/// What to answer, and how.
#[derive(Input)]
struct Request {
    /// What the user says.
    #[input(max_length = 1_000_000)]
    prompt: Option<String>,
    /// What the model is told before the conversation.
    #[input(max_length = 1_000_000)]
    system_prompt: Option<String>,
    /// A conversation instead of `prompt`: objects with `role` (`system`, `user` or `assistant`) and `content`.
    #[input(min_items = 1, max_items = 1000)]
    messages: Option<Vec<maquette::Value>>,
    /// Whether `prompt` is a text to go on with, word for word, not something to answer.
    #[input(default = false)]
    raw: bool,
    /// The most tokens to generate.
    #[input(default = 512, ge = 1, le = 32768)]
    max_tokens: u32,
    /// How freely to choose: 0 always takes the likeliest token.
    #[input(default = 0.7, ge = 0.0, le = 5.0)]
    temperature: f64,
    /// Choose among the likeliest tokens that together have this probability.
    #[input(default = 0.95, ge = 0.001, le = 1.0)]
    top_p: f64,
    /// Choose among so many of the likeliest tokens; 0 for all.
    #[input(default = 0, ge = 0, le = 1_000_000)]
    top_k: u32,
    /// Choose among tokens at least this much as likely as the likeliest.
    #[input(default = 0.0, ge = 0.0, le = 0.999)]
    min_p: f64,
    /// How much less likely tokens become that have been said: 1 is not at all.
    #[input(default = 1.0, ge = 0.1, le = 10.0)]
    repetition_penalty: f64,
    /// Texts that end the answer, and are left out of it.
    #[input(max_items = 16)]
    stop: Option<Vec<String>>,
}

struct Llama {
    decoder: Decoder,
    tokenizer: Tokenizer,
    /// How conversations are written; a model that was not made for them has none.
    template: Option<ChatTemplate>,
    /// Tokens that end an answer.
    ends: Vec<u32>,
}

impl Model for Llama {
    type Input = Request;
    type Output = StreamedText;

    fn load(package: &Package) -> Result<Self> {
        let weights = package.weights("model")?;
        let (config, tokenizer, template) = match weights.metadata("general.architecture")? {
            Some(_) => {
                let template = weights.metadata("tokenizer.chat_template")?;
                let tokenizer = package.gguf_tokenizer("model")?;
                (DecoderConfig::from_gguf(&weights)?, tokenizer, template)
            }
            None => {
                let config: maquette::Value = package.json("config.json")?;
                let tokenizer = package.tokenizer("tokenizer.json")?;
                let settings: Option<maquette::Value> = package.json("tokenizer_config.json").ok();
                let template = settings.and_then(|s| Some(s["chat_template"].as_str()?.to_owned()));
                (DecoderConfig::from_json(&config)?, tokenizer, template)
            }
        };
        // Whatever ends a turn in one of the formats, if the vocabulary has it as a special token.
        let known = [
            "<|im_end|>",
            "<|eot_id|>",
            "<|end_of_text|>",
            "<|endoftext|>",
            "</s>",
            "<|end|>",
            "<end_of_turn>",
        ];
        let known = known
            .iter()
            .filter_map(|token| tokenizer.id(token))
            .filter(|id| tokenizer.is_special(*id));
        let mut ends: Vec<u32> = known.chain(tokenizer.eos()).collect();
        ends.sort_unstable();
        ends.dedup();
        Ok(Self {
            decoder: Decoder::load(config, &weights)?,
            template: template
                .map(|template| ChatTemplate::from_jinja(&template))
                .transpose()?,
            tokenizer,
            ends,
        })
    }

    fn predict(&self, request: Request) -> Result<StreamedText> {
        let conversation = Conversation::of(&request)?;
        let ids = conversation.encode(&self.tokenizer, self.template.as_ref())?;
        self.generate(&ids, &request)
    }
}

maquette::export!(Llama);

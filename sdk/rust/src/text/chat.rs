//! Chat templates: a conversation as the prompt that a model was trained on.
//!
//! Models bring their template as a program in Jinja. An interpreter of it would be larger than all tokenizers here, so the formats
//! are written out, and a template is recognised by what it writes. What a message says is never read as a special token.

use std::borrow::Cow;

use super::{Specials, Tokenizer};
use crate::{Error, Result};

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who says it: `system`, `user` or `assistant`.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }

    /// What the model should keep to.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// A format of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    ChatMl,
    Llama2,
    Llama3,
    /// With dates before the system prompt.
    Llama31,
    /// `space`: after each answer.
    Mistral {
        space: bool,
    },
    Gemma,
    Zephyr,
    Phi3,
    Phi4,
}

const NAMES: [(&str, Format); 9] = [
    ("chatml", Format::ChatMl),
    ("llama2", Format::Llama2),
    ("llama3", Format::Llama3),
    ("llama3.1", Format::Llama31),
    ("mistral", Format::Mistral { space: false }),
    ("gemma", Format::Gemma),
    ("zephyr", Format::Zephyr),
    ("phi3", Format::Phi3),
    ("phi4", Format::Phi4),
];

/// What a prompt is made of: text, and whether special tokens in it are parsed.
type Piece<'m> = (Cow<'m, str>, Specials);

/// The format of the prompts of a model.
///
/// ```
/// # use maquette::text::{ChatTemplate, Message};
/// let template = ChatTemplate::named("chatml")?;
/// let prompt = template.render(&[Message::user("Hello")], true)?;
/// assert_eq!(prompt, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n");
/// # Ok::<(), maquette::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplate {
    format: Format,
    /// What is said as `system` if the conversation starts with something else.
    system: Option<String>,
}

impl ChatTemplate {
    /// A format by name: `chatml`, `llama2`, `llama3`, `llama3.1`, `mistral` (versions 0.1 and 0.2), `gemma`, `zephyr`, `phi3`,
    /// `phi4`.
    ///
    /// # Errors
    /// If no format has the name.
    pub fn named(name: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        let (_, format) = found.ok_or_else(|| {
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            Error::unsupported(format!(
                "no chat format has the name `{name}`; there are {}",
                names.join(", ")
            ))
        })?;
        Ok(Self {
            format: *format,
            system: None,
        })
    }

    /// The format of a template in Jinja, as `tokenizer.chat_template` of a GGUF and `chat_template` of a `tokenizer_config.json`
    /// have it, recognised by the marks that it writes; with the system prompt that a template of ChatML has for conversations
    /// without one. What templates do with tools, documents and thoughts is left out.
    ///
    /// # Errors
    /// If the format is none of those known here.
    pub fn from_jinja(template: &str) -> Result<Self> {
        let has = |text: &str| template.contains(text);
        let format = if has("<|im_start|>") && has("<|im_sep|>") {
            Format::Phi4
        } else if has("<|im_start|>") {
            Format::ChatMl
        } else if has("<|start_header_id|>") && has("<|end_header_id|>") {
            if has("Cutting Knowledge Date") {
                Format::Llama31
            } else {
                Format::Llama3
            }
        } else if has("<start_of_turn>") {
            Format::Gemma
        } else if has("[INST]") && has("<<SYS>>") {
            Format::Llama2
        } else if has("'[INST] '") && has("' [/INST]'") && !has("[AVAILABLE_TOOLS]") && !has("[SYSTEM_PROMPT]") {
            Format::Mistral {
                space: has("eos_token + ' '"),
            }
        } else if has("<|assistant|>") && has("<|end|>") {
            Format::Phi3
        } else if has("<|assistant|>") && has("<|user|>") && has("eos_token") && !has("[gMASK]") {
            Format::Zephyr
        } else {
            let start: String = template.chars().take(200).collect();
            let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            return Err(Error::unsupported(format!(
                "the chat template is none of those this SDK knows ({}); it starts {start:?}",
                names.join(", ")
            )));
        };
        let system = match format {
            Format::ChatMl => default_system(template),
            _ => None,
        };
        Ok(Self { format, system })
    }

    /// The same, with a system prompt for conversations that start without one.
    #[must_use]
    pub fn with_system(mut self, prompt: impl Into<String>) -> Self {
        self.system = Some(prompt.into());
        self
    }

    /// The system prompt for conversations that start without one.
    pub fn system(&self) -> Option<&str> {
        self.system.as_deref()
    }

    /// The prompt as text. `generation` says that the model answers next. To be shown only: once text, what a message says can no
    /// longer be told from the template; [`ChatTemplate::encode`] is for the model.
    ///
    /// # Errors
    /// As [`ChatTemplate::encode`].
    pub fn render(&self, messages: &[Message], generation: bool) -> Result<String> {
        let pieces = self.pieces(messages, generation)?;
        Ok(pieces.iter().map(|(text, _)| text.as_ref()).collect())
    }

    /// The ids of the prompt. `generation` says that the model answers next. Special tokens that a message writes out are text.
    ///
    /// # Errors
    /// `invalid_input` if the format has no place for a message; `unsupported` if the tokenizer lacks a special token that the format
    /// needs.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], generation: bool) -> Result<Vec<u32>> {
        for mark in self.format.marks() {
            if tokenizer.encode_with(mark, Specials::Parse).len() != 1 {
                return Err(Error::unsupported(format!(
                    "the chat format `{}` needs the special token {mark:?}, which the tokenizer lacks: it is the format of another \
                     model",
                    self.format.name()
                )));
            }
        }
        let pieces = self.pieces(messages, generation)?;
        Ok(tokenizer.encode_pieces(pieces.iter().map(|(text, specials)| (text.as_ref(), *specials))))
    }

    fn pieces<'m>(&'m self, messages: &'m [Message], generation: bool) -> Result<Vec<Piece<'m>>> {
        let (mut system, rest) = match messages.split_first() {
            Some((first, rest)) if first.role == "system" => (Some(first.content.as_str()), rest),
            _ => (self.system.as_deref(), messages),
        };
        if rest.is_empty() && generation && messages.is_empty() {
            return Err(Error::invalid_input("`messages` is empty; send at least one message"));
        }
        let name = self.format.name();
        let mut prompt = Prompt::default();
        prompt.mark(self.format.start());
        match self.format {
            // The system prompt is a message as others are.
            Format::ChatMl | Format::Phi3 | Format::Phi4 | Format::Zephyr | Format::Llama3 => {
                if let Some(system) = system {
                    self.format.message(&mut prompt, "system", system);
                }
            }
            Format::Llama31 => {
                prompt.mark("<|start_header_id|>system<|end_header_id|>\n\n");
                // The template's own date, where no clock is given to it.
                prompt.mark("Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n");
                prompt.text(system.unwrap_or_default().trim());
                prompt.mark("<|eot_id|>");
            }
            // It is a part of what the user says first.
            Format::Llama2 | Format::Mistral { .. } | Format::Gemma => {}
        }
        let folds = matches!(self.format, Format::Llama2 | Format::Mistral { .. } | Format::Gemma);
        let mut expected = "user";
        for (n, message) in rest.iter().enumerate() {
            let role = message.role.as_str();
            let at = n + messages.len() - rest.len();
            let late = role == "system" && folds;
            if !matches!(role, "system" | "user" | "assistant") || late {
                return Err(Error::invalid_input(format!(
                    "messages[{at}].role is {role:?}; the chat format `{name}` knows user and assistant, and system{}",
                    if folds { " at the start" } else { "" }
                )));
            }
            if folds && role != expected {
                return Err(Error::invalid_input(format!(
                    "messages[{at}].role is {role:?}; in the chat format `{name}` user and assistant take turns, so it should be \
                     {expected:?}"
                )));
            }
            expected = if role == "user" { "assistant" } else { "user" };
            let content = message.content.as_str();
            if folds {
                self.format.turn(&mut prompt, role, content, system.take(), n == 0);
            } else {
                self.format.message(&mut prompt, role, content);
            }
        }
        if generation {
            prompt.mark(self.format.answer());
        }
        Ok(prompt.pieces)
    }
}

/// A prompt in the making.
#[derive(Default)]
struct Prompt<'m> {
    pieces: Vec<Piece<'m>>,
}

impl<'m> Prompt<'m> {
    /// What the template says. What follows what it said before goes with it: a mark may lie across.
    fn mark(&mut self, text: &'static str) {
        match self.pieces.last_mut() {
            Some((last, Specials::Parse)) => last.to_mut().push_str(text),
            _ => self.pieces.push((text.into(), Specials::Parse)),
        }
    }

    /// What a message says.
    fn text(&mut self, text: &'m str) {
        self.pieces.push((text.into(), Specials::Text));
    }
}

impl Format {
    fn name(self) -> &'static str {
        let found = NAMES.iter().find(|(_, format)| *format == self);
        found.map_or("mistral", |(name, _)| name)
    }

    /// The special tokens without which a prompt would be nonsense.
    fn marks(self) -> &'static [&'static str] {
        match self {
            Self::ChatMl => &["<|im_start|>", "<|im_end|>"],
            Self::Llama2 | Self::Mistral { .. } => &["<s>", "</s>"],
            Self::Llama3 | Self::Llama31 => &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            Self::Gemma => &["<start_of_turn>", "<end_of_turn>"],
            // Its other marks are text.
            Self::Zephyr => &["</s>"],
            Self::Phi3 => &["<|user|>", "<|assistant|>", "<|end|>"],
            Self::Phi4 => &["<|im_start|>", "<|im_sep|>", "<|im_end|>"],
        }
    }

    /// What a prompt starts with.
    fn start(self) -> &'static str {
        match self {
            Self::Llama3 | Self::Llama31 => "<|begin_of_text|>",
            Self::Gemma => "<bos>",
            Self::Mistral { .. } => "<s>",
            // Before every turn.
            Self::Llama2 => "",
            Self::ChatMl | Self::Zephyr | Self::Phi3 | Self::Phi4 => "",
        }
    }

    /// What an answer starts with.
    fn answer(self) -> &'static str {
        match self {
            Self::ChatMl => "<|im_start|>assistant\n",
            Self::Llama3 | Self::Llama31 => "<|start_header_id|>assistant<|end_header_id|>\n\n",
            Self::Llama2 | Self::Mistral { .. } => "",
            Self::Gemma => "<start_of_turn>model\n",
            Self::Zephyr | Self::Phi3 => "<|assistant|>\n",
            Self::Phi4 => "<|im_start|>assistant<|im_sep|>",
        }
    }

    /// A message of its own.
    fn message<'m>(self, prompt: &mut Prompt<'m>, role: &str, content: &'m str) {
        let role = match role {
            "system" => "system",
            "assistant" => "assistant",
            _ => "user",
        };
        let (before, between, after) = match self {
            Self::Llama3 | Self::Llama31 => ("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"),
            Self::Zephyr => ("<|", "|>\n", "</s>\n"),
            Self::Phi3 => ("<|", "|>\n", "<|end|>\n"),
            Self::Phi4 => ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
            _ => ("<|im_start|>", "\n", "<|im_end|>\n"),
        };
        prompt.mark(before);
        prompt.mark(role);
        prompt.mark(between);
        prompt.text(match self {
            Self::Llama3 | Self::Llama31 => content.trim(),
            _ => content,
        });
        prompt.mark(after);
    }

    /// A message of those that take turns, with the system prompt in the first.
    fn turn<'m>(self, prompt: &mut Prompt<'m>, role: &str, content: &'m str, system: Option<&'m str>, first: bool) {
        let user = role == "user";
        match (self, user) {
            (Self::Gemma, true) => prompt.mark("<start_of_turn>user\n"),
            (Self::Gemma, false) => prompt.mark("<start_of_turn>model\n"),
            (Self::Llama2, true) => prompt.mark("<s>[INST] "),
            (Self::Llama2, false) => prompt.mark(" "),
            (_, true) => prompt.mark("[INST] "),
            (_, false) => {}
        }
        if let Some(system) = system.filter(|_| first) {
            if self == Self::Llama2 {
                prompt.mark("<<SYS>>\n");
                prompt.text(system);
                prompt.mark("\n<</SYS>>\n\n");
            } else {
                prompt.text(system);
                prompt.mark("\n\n");
            }
        }
        prompt.text(match self {
            Self::Mistral { .. } => content,
            _ => content.trim(),
        });
        prompt.mark(match (self, user) {
            (Self::Gemma, _) => "<end_of_turn>\n",
            (_, true) => " [/INST]",
            (Self::Llama2, false) => " </s>",
            (Self::Mistral { space: true }, false) => "</s> ",
            (_, false) => "</s>",
        });
    }
}

/// The system prompt that a template of ChatML writes out.
fn default_system(template: &str) -> Option<String> {
    let starts = template.split("<|im_start|>system").skip(1);
    let texts = starts.filter_map(|rest| {
        // The end of a line, or its escape in a string.
        let rest = rest.strip_prefix('\n').or_else(|| rest.strip_prefix("\\n"))?;
        let (text, _) = rest.split_once("<|im_end|>")?;
        // A string that ends before the mark says that the text is somebody else's.
        let plain = !text.is_empty() && !text.contains(['\'', '"', '{', '}', '\\']);
        plain.then(|| text.to_owned())
    });
    texts.into_iter().next()
}

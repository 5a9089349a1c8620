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
    /// With a space before turns, as the template calls v1 has it; with one after answers, as version 0.1 has it.
    Mistral {
        before: bool,
        after: bool,
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
    (
        "mistral",
        Format::Mistral {
            before: false,
            after: false,
        },
    ),
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
    /// Whether a prompt starts with `bos_token`.
    starts: bool,
    bos: Option<String>,
    eos: Option<String>,
}

impl ChatTemplate {
    /// A format by name: `chatml`, `llama2`, `llama3`, `llama3.1`, `mistral` (version 0.2), `gemma`, `zephyr`, `phi3`, `phi4`.
    ///
    /// # Errors
    /// If no format has the name.
    pub fn named(name: &str) -> Result<Self> {
        let found = NAMES.iter().find(|(known, _)| *known == name);
        let (_, format) = found.ok_or_else(|| {
            Error::unsupported(format!("no chat format has the name `{name}`; there are {}", names()))
        })?;
        Ok(Self::new(*format, format.starts()))
    }

    fn new(format: Format, starts: bool) -> Self {
        Self {
            format,
            system: None,
            starts,
            bos: None,
            eos: None,
        }
    }

    /// The format of a template in Jinja, as `tokenizer.chat_template` of a GGUF and `chat_template` of a `tokenizer_config.json`
    /// have it, recognised by the marks that it writes; with the system prompt that a template of ChatML has for conversations
    /// without one. What templates do with tools, documents and thoughts is left out.
    ///
    /// # Errors
    /// If the format is none of those known here.
    pub fn from_jinja(template: &str) -> Result<Self> {
        let has = |text: &str| template.contains(text);
        // Ends of lines are written as such, or as escapes in strings.
        let line = |text: &str| has(&format!("{text}\n")) || has(&format!("{text}\\n"));
        let format = if has("<|im_start|>") && has("<|im_sep|>") {
            Format::Phi4
        } else if has("<|im_start|>") && has("<|im_end|>") {
            Format::ChatMl
        } else if has("<|start_header_id|>") && has("<|eot_id|>") {
            if has("Cutting Knowledge Date") {
                Format::Llama31
            } else {
                Format::Llama3
            }
        } else if has("<start_of_turn>") && has("<end_of_turn>") {
            Format::Gemma
        } else if has("<<SYS>>") && has("bos_token + '[INST] '") && has(".strip()") {
            Format::Llama2
        } else if has("[INST] '")
            && has("' [/INST]'")
            && !["<<SYS>>", "[AVAILABLE_TOOLS]", "[SYSTEM_PROMPT]"].into_iter().any(has)
        {
            Format::Mistral {
                before: has("' [INST] '"),
                after: has("eos_token + ' '"),
            }
        } else if has("<|assistant|>") && (line("<|end|>") || line("<|end|>' + '")) {
            Format::Phi3
        } else if has("<|user|>") && line("<|system|>") && has("<|assistant|>") && has("+ eos_token") {
            Format::Zephyr
        } else {
            let start: String = template.chars().take(200).collect();
            return Err(Error::unsupported(format!(
                "the chat template is none of those this SDK knows ({}); it starts {start:?}",
                names()
            )));
        };
        let mut template_of = Self::new(format, has("bos_token"));
        if format == Format::ChatMl {
            template_of.system = default_system(template);
        }
        Ok(template_of)
    }

    /// The same, with other tokens for `bos_token` and `eos_token` than the tokenizer says (one from a GGUF does), or else than the
    /// format has.
    #[must_use]
    pub fn with_tokens(mut self, bos: impl Into<String>, eos: impl Into<String>) -> Self {
        (self.bos, self.eos) = (Some(bos.into()), Some(eos.into()));
        self
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
        let (bos, eos) = self.tokens(None)?;
        let pieces = self.pieces(messages, generation, &bos, &eos)?;
        Ok(pieces.iter().map(|(text, _)| text.as_ref()).collect())
    }

    /// The ids of the prompt. `generation` says that the model answers next. Special tokens that a message writes out are text.
    /// The marks of some formats are no special tokens to begin with: `[INST]` and `<<SYS>>` of Llama 2 and Mistral, `<|user|>` and the
    /// like of Zephyr. There a message may say what the template says, as it may with every other implementation.
    ///
    /// # Errors
    /// `invalid_input` if the format has no place for a message; `unsupported` if the tokenizer lacks a special token that the format
    /// needs.
    pub fn encode(&self, tokenizer: &Tokenizer, messages: &[Message], generation: bool) -> Result<Vec<u32>> {
        let (bos, eos) = self.tokens(Some(tokenizer))?;
        let mut marks = self.format.marks().to_vec();
        marks.extend(Some(bos.as_str()).filter(|bos| !bos.is_empty()));
        if self.format.ends() {
            marks.push(&eos);
        }
        // Not every tokenizer says that the marks are special.
        let mut never = Vec::new();
        for mark in marks {
            let ids = tokenizer.encode_with(mark, Specials::Parse);
            never.extend(&ids);
            if ids.len() != 1 {
                return Err(Error::unsupported(format!(
                    "the chat format `{}` needs the special token {mark:?}, which the tokenizer lacks: it is the format of another \
                     model, or its tokens are to be given with `with_tokens`",
                    self.format.name()
                )));
            }
        }
        let pieces = self.pieces(messages, generation, &bos, &eos)?;
        let pieces = pieces.iter().map(|(text, specials)| (text.as_ref(), *specials));
        Ok(tokenizer.encode_pieces_but(pieces, &never))
    }

    /// What a prompt starts with (empty if with nothing), and `eos_token`.
    fn tokens(&self, tokenizer: Option<&Tokenizer>) -> Result<(String, String)> {
        let token = |own: &Option<String>, id: fn(&Tokenizer) -> Option<u32>, of_format: &str| {
            let token = tokenizer.and_then(|tokenizer| tokenizer.token(id(tokenizer)?));
            let token = token.map(|token| String::from_utf8_lossy(&token).into_owned());
            own.clone().or(token).unwrap_or_else(|| of_format.to_owned())
        };
        let eos = token(&self.eos, Tokenizer::eos, "</s>");
        if !self.starts {
            return Ok((String::new(), eos));
        }
        let bos = token(&self.bos, Tokenizer::bos, self.format.bos());
        if bos.is_empty() {
            return Err(Error::unsupported(
                "the chat template starts with `bos_token`, which neither the tokenizer nor the format says; give it with \
                 `with_tokens`",
            ));
        }
        Ok((bos, eos))
    }

    fn pieces<'m>(&'m self, messages: &'m [Message], generation: bool, bos: &str, eos: &str) -> Result<Vec<Piece<'m>>> {
        let (mut system, rest) = match messages.split_first() {
            Some((first, rest)) if first.role == "system" => (Some(first.content.as_str()), rest),
            _ => (self.system.as_deref(), messages),
        };
        if rest.is_empty() && generation && messages.is_empty() {
            return Err(Error::invalid_input("`messages` is empty; send at least one message"));
        }
        let name = self.format.name();
        let mut prompt = Prompt {
            pieces: Vec::new(),
            bos: bos.to_owned(),
            eos: eos.to_owned(),
        };
        // Before every turn with Llama 2.
        if self.format != Format::Llama2 {
            prompt.mark(bos);
        }
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
struct Prompt<'m> {
    pieces: Vec<Piece<'m>>,
    bos: String,
    eos: String,
}

impl<'m> Prompt<'m> {
    /// What the template says. What follows what it said before goes with it: a mark may lie across.
    fn mark(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some((last, Specials::Parse)) => last.to_mut().push_str(text),
            _ => self.pieces.push((text.to_owned().into(), Specials::Parse)),
        }
    }

    fn end(&mut self) {
        let eos = std::mem::take(&mut self.eos);
        self.mark(&eos);
        self.eos = eos;
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
            Self::Llama3 | Self::Llama31 => &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
            Self::Gemma => &["<start_of_turn>", "<end_of_turn>"],
            // Their other marks are text.
            Self::Llama2 | Self::Mistral { .. } | Self::Zephyr => &[],
            Self::Phi3 => &["<|user|>", "<|assistant|>", "<|end|>"],
            Self::Phi4 => &["<|im_start|>", "<|im_sep|>", "<|im_end|>"],
        }
    }

    /// Whether it writes `eos_token`.
    fn ends(self) -> bool {
        matches!(self, Self::Llama2 | Self::Mistral { .. } | Self::Zephyr)
    }

    /// Whether its prompts start with `bos_token`, if nothing else says.
    fn starts(self) -> bool {
        matches!(
            self,
            Self::Llama2 | Self::Llama3 | Self::Llama31 | Self::Mistral { .. } | Self::Gemma
        )
    }

    /// The `bos_token` of the models that it is of; empty if they differ.
    fn bos(self) -> &'static str {
        match self {
            Self::Llama3 | Self::Llama31 => "<|begin_of_text|>",
            Self::Gemma => "<bos>",
            Self::Llama2 | Self::Mistral { .. } | Self::Zephyr | Self::Phi3 => "<s>",
            Self::ChatMl | Self::Phi4 => "",
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
            Self::Zephyr => ("<|", "|>\n", "\n"),
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
        if self == Self::Zephyr {
            prompt.end();
        }
        prompt.mark(after);
    }

    /// A message of those that take turns, with the system prompt in the first.
    fn turn<'m>(self, prompt: &mut Prompt<'m>, role: &str, content: &'m str, system: Option<&'m str>, first: bool) {
        let user = role == "user";
        let system = system.filter(|_| first);
        match (self, user) {
            (Self::Gemma, true) => prompt.mark("<start_of_turn>user\n"),
            (Self::Gemma, false) => prompt.mark("<start_of_turn>model\n"),
            (Self::Llama2, true) => {
                let bos = prompt.bos.clone();
                prompt.mark(&bos);
                prompt.mark("[INST] ");
            }
            (Self::Llama2 | Self::Mistral { before: true, .. }, false) => prompt.mark(" "),
            (Self::Mistral { before: true, .. }, true) => prompt.mark(" [INST] "),
            (_, true) => prompt.mark("[INST] "),
            (_, false) => {}
        }
        if let Some(system) = system {
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
            // It strips what the system prompt is already a part of.
            Self::Llama2 if system.is_some() => content.trim_end(),
            _ => content.trim(),
        });
        match (self, user) {
            (Self::Gemma, _) => prompt.mark("<end_of_turn>\n"),
            (_, true) => prompt.mark(" [/INST]"),
            (Self::Llama2, false) => {
                prompt.mark(" ");
                prompt.end();
            }
            (Self::Mistral { after: true, .. }, false) => {
                prompt.end();
                prompt.mark(" ");
            }
            (_, false) => prompt.end(),
        }
    }
}

fn names() -> String {
    let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
    names.join(", ")
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

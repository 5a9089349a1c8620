//! What the caller wants gone on with: a text, or a conversation.

use maquette::prelude::*;
use maquette::text::{ChatTemplate, Message, Tokenizer};

use crate::Request;

/// What the caller wants gone on with.
#[derive(Debug)]
pub(crate) enum Conversation {
    /// A text, word for word.
    Text(String),
    /// Turns.
    Turns(Vec<Message>),
}

impl Conversation {
    pub(crate) fn of(request: &Request) -> Result<Self> {
        let mut turns: Vec<Message> = request.system_prompt.iter().map(Message::system).collect();
        match (&request.prompt, &request.messages) {
            (Some(prompt), None) if request.raw => {
                if !turns.is_empty() {
                    return Err(Error::invalid_input(
                        "`raw` goes without `system_prompt`: put all of the text into `prompt`",
                    ));
                }
                return Ok(Self::Text(prompt.clone()));
            }
            (Some(prompt), None) if prompt.is_empty() => {
                return Err(Error::invalid_input("`prompt` is empty: there is nothing to answer"));
            }
            (Some(prompt), None) => turns.push(Message::user(prompt)),
            (None, Some(messages)) => {
                for (i, message) in messages.iter().enumerate() {
                    let text = |key: &str| {
                        message[key].as_str().ok_or_else(|| {
                            Error::invalid_input(format!(
                                "`messages[{i}].{key}` is missing or is no text: send {{\"role\": …, \"content\": …}}"
                            ))
                        })
                    };
                    let (role, content) = (text("role")?, text("content")?);
                    if !["system", "user", "assistant"].contains(&role) {
                        return Err(Error::invalid_input(format!(
                            "`messages[{i}].role` is {role:?}; it must be system, user or assistant"
                        )));
                    }
                    turns.push(Message::new(role, content));
                }
            }
            _ => {
                return Err(Error::invalid_input(
                    "send either `prompt` (a text) or `messages` (a conversation)",
                ));
            }
        }
        Ok(Self::Turns(turns))
    }

    /// The tokens to go on from.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Vec<u32>> {
        match (self, template) {
            (Self::Text(text), _) => Ok(tokenizer.encode(text)),
            (Self::Turns(turns), Some(template)) => template.encode(tokenizer, turns, true),
            (Self::Turns(turns), None) => match turns.as_slice() {
                [turn] => Ok(tokenizer.encode(&turn.content)),
                _ => Err(Error::invalid_input(
                    "this model was not made for conversations: send a `prompt` alone",
                )),
            },
        }
    }
}

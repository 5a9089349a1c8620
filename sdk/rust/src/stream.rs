//! Outputs that callers get piece by piece.

use std::cell::RefCell;
use std::marker::PhantomData;

use serde_json::{Value, json};

use crate::{Output, Result, run};

/// A list whose items are sent as they come. Return it from `predict` when all are sent.
///
/// ```no_run
/// # use maquette::prelude::*;
/// # fn predict() -> Result<Stream<u32>> {
/// let stream = Stream::new();
/// for i in 0..3 {
///     stream.send(&i)?;
/// }
/// Ok(stream)
/// # }
/// ```
#[derive(Debug)]
pub struct Stream<T> {
    /// What was sent, as JSON, with commas between: the output is all of it.
    sent: RefCell<String>,
    item: PhantomData<T>,
}

impl<T: Output> Stream<T> {
    /// Nothing sent yet.
    pub fn new() -> Self {
        Self {
            sent: RefCell::default(),
            item: PhantomData,
        }
    }

    /// Sends an item.
    ///
    /// # Errors
    /// If the output exceeds its limit, or the caller has left.
    pub fn send(&self, item: &T) -> Result<()> {
        run::emit(item)?;
        keep(item, &mut self.sent.borrow_mut());
        Ok(())
    }
}

impl<T: Output> Default for Stream<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Output> Output for Stream<T> {
    /// As Cog's `Iterator`.
    fn schema() -> Value {
        json!({"type": "array", "items": T::schema(), "x-cog-array-type": "iterator"})
    }

    fn write_json(&self, out: &mut String) {
        *out += "[";
        *out += &self.sent.borrow();
        *out += "]";
    }
}

fn keep(item: &impl Output, sent: &mut String) {
    if !sent.is_empty() {
        sent.push(',');
    }
    item.write_json(sent);
}

/// A text whose pieces are sent as they come: the output is the list of them, and its reader puts them together.
#[derive(Debug, Default)]
pub struct StreamedText(Stream<String>);

impl StreamedText {
    /// Nothing sent yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a piece; an empty one is not worth sending and is left out.
    ///
    /// # Errors
    /// If the output exceeds its limit, or the caller has left.
    pub fn send(&self, piece: &str) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.0.send(&piece.to_owned())
    }
}

impl Output for StreamedText {
    /// As Cog's `ConcatenateIterator`.
    fn schema() -> Value {
        json!({
            "type": "array",
            "items": {"type": "string"},
            "x-cog-array-type": "iterator",
            "x-cog-array-display": "concatenate",
        })
    }

    fn write_json(&self, out: &mut String) {
        self.0.write_json(out);
    }
}

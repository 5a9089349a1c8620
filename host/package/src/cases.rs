//! Cases: example inputs with the output that they must give. Golden test, warm-up and documentation at once.
//!
//! A case is a file `cases/NAME.json`:
//! ```json
//! {"description": "one short text", "input": {"text": "A cat."}, "output": [[0.126, -0.032]], "tolerance": 1e-4}
//! ```
//! A text `"@cat.png"` in `input` or `output` stands for the file `cases/cat.png` and becomes a data URI; write `"@@…"` for a text
//! that begins with `@`. Numbers may differ by [`Case::tolerance`].

mod compare;
mod read;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use compare::{Difference, Mismatch, compare};
pub use read::read_dir;

use crate::version::MAX_TEXT;
use crate::{Error, Note, Result};

/// How far a number may be off where the case does not say.
pub const DEFAULT_TOLERANCE: f64 = 1e-5;

/// One case, its files inlined.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The file's name without `.json`.
    pub name: String,
    /// What it shows; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The input object, files as data URIs.
    pub input: Value,
    /// The output that is expected.
    pub output: Value,
    /// How far a number may be off: `tolerance × max(1, |expected|)`; a whole number, where a whole number is expected, by
    /// `tolerance` alone, which means not at all unless it is 1 or more.
    pub tolerance: f64,
}

impl Case {
    /// The case as a version keeps it: canonical JSON.
    pub fn to_json(&self) -> Result<String> {
        serde_json_canonicalizer::to_string(self).map_err(|e| {
            Error::Case(Note::new(
                &self.name,
                format!("it cannot be written as canonical JSON: {e}"),
                "",
            ))
        })
    }

    /// Reads what [`Case::to_json`] wrote.
    pub fn from_json(json: &[u8]) -> Result<Self> {
        let refuse = |what: String| Error::Case(Note::new("case", what, ""));
        if json.len() as u64 > MAX_TEXT {
            return Err(refuse(format!("{} bytes, at most {MAX_TEXT} are read", json.len())));
        }
        let case: Self = serde_json::from_slice(json).map_err(|e| refuse(e.to_string()))?;
        read::check(&case, "case")?;
        Ok(case)
    }

    /// Whether `actual` is the expected output.
    pub fn check(&self, actual: &Value) -> Result<(), Box<Mismatch>> {
        compare(&self.output, actual, self.tolerance)
    }
}

//! Input and output schemas: whether one is safe to use, whether a value fits it, which defaults it fills in.

mod defaults;
mod explain;
mod lint;
mod nullable;
mod secret;

use std::fmt;

use jsonschema::PatternOptions;
use serde::Serialize;
use serde_json::Value;

pub use crate::openapi::version as openapi;
pub(crate) use secret::visit as visit_secrets;

/// Values with more nodes than this are told their first offending field only: each error holds memory while it is explained.
const MAX_EXPLAINED_NODES: usize = 50_000;

/// The largest compiled form of one `pattern`, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// A field that does not fit, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Where, such as `texts[3]` or `options.size`; empty for the whole input.
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.field, self.message)
        }
    }
}

/// A schema compiled for use by many calls.
///
/// Only schemas that cost a bounded time are taken: no recursion, no references to elsewhere, patterns without backtracking.
#[derive(Debug)]
pub struct Schema {
    schema: Value,
    validator: jsonschema::Validator,
    files: bool,
    secrets: bool,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// What in it cannot be used, in words for the contributor.
    pub fn new(schema: Value) -> Result<Self, String> {
        lint::check(&schema)?;
        let mut widened = schema.clone();
        nullable::widen(&mut widened);
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(
                PatternOptions::regex()
                    .size_limit(MAX_PATTERN_BYTES)
                    .dfa_size_limit(MAX_PATTERN_BYTES),
            )
            .offline()
            .build(&widened)
            .map_err(|e| format!("at `{}`: {}", e.instance_path(), e.masked()))?;
        let (files, secrets) = (mentions_files(&schema), secret::mentions(&schema));
        Ok(Self {
            schema,
            validator,
            files,
            secrets,
        })
    }

    /// The schema as it was given.
    pub fn value(&self) -> &Value {
        &self.schema
    }

    /// Whether some field may hold a file (`format: uri`).
    pub fn has_files(&self) -> bool {
        self.files
    }

    /// Whether some field may hold a secret.
    pub(crate) fn has_secrets(&self) -> bool {
        self.secrets
    }

    /// Fills in the defaults of missing fields.
    pub fn fill(&self, value: &mut Value) {
        defaults::fill(&self.schema, value);
    }

    /// Whether a value fits.
    ///
    /// # Errors
    /// Every offending field; of a value with more than 50,000 nodes the first one.
    pub fn check(&self, value: &Value) -> Result<(), Vec<FieldError>> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let secrets = match self.secrets {
            true => secret::pointers(&self.schema, value),
            false => Vec::new(),
        };
        let about = explain::About {
            schema: &self.schema,
            input: value,
            secrets: &secrets,
        };
        let mut found = Vec::new();
        if count_nodes(value, MAX_EXPLAINED_NODES) >= MAX_EXPLAINED_NODES {
            if let Err(error) = self.validator.validate(value) {
                explain::explain(&about, &error, &mut found);
            }
        } else {
            for error in self.validator.iter_errors(value) {
                explain::explain(&about, &error, &mut found);
            }
        }
        if found.is_empty() {
            found.push(FieldError {
                field: String::new(),
                message: "does not fit the schema".to_owned(),
            });
        }
        Err(found)
    }
}

/// Fills in defaults and checks the result. Where a schema is used more than once, keep a [`Schema`].
///
/// # Errors
/// Every offending field; a schema that cannot be used is one error without a field.
pub fn validate(schema: &Value, input: &mut Value) -> Result<(), Vec<FieldError>> {
    let schema = Schema::new(schema.clone()).map_err(|why| {
        vec![FieldError {
            field: String::new(),
            message: format!("the schema cannot be used: {why}"),
        }]
    })?;
    schema.fill(input);
    schema.check(input)
}

/// The nodes of a value, counted up to a limit.
fn count_nodes(value: &Value, limit: usize) -> usize {
    let mut count = 0;
    let mut waiting = vec![value];
    while let Some(value) = waiting.pop() {
        count += 1;
        if count + waiting.len() >= limit {
            return limit;
        }
        match value {
            Value::Array(items) if items.len() >= limit => return limit,
            Value::Object(fields) if fields.len() >= limit => return limit,
            Value::Array(items) => waiting.extend(items),
            Value::Object(fields) => waiting.extend(fields.values()),
            _ => {}
        }
    }
    count
}

fn mentions_files(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => {
            map.get("format").and_then(Value::as_str) == Some("uri") || map.values().any(mentions_files)
        }
        Value::Array(items) => items.iter().any(mentions_files),
        _ => false,
    }
}

#[cfg(test)]
mod tests;

//! Errors with a code, which decides the HTTP status that a caller sees.

use std::fmt;

use maquette_ops::Code;

use crate::bindings::maquette::model::types;

/// What a model answers instead of an output.
///
/// `?` turns any standard error into one with the code `internal`; an error that is the caller's is made with
/// [`Error::invalid_input`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    code: Code,
    message: String,
}

/// A result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error with a code.
    pub fn new(code: Code, message: impl fmt::Display) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }

    /// The caller's input cannot be used (HTTP 422). Say which field, and what would be right.
    pub fn invalid_input(message: impl fmt::Display) -> Self {
        Self::new(Code::InvalidInput, message)
    }

    /// The model cannot do this (HTTP 500).
    pub fn unsupported(message: impl fmt::Display) -> Self {
        Self::new(Code::Unsupported, message)
    }

    /// Something is wrong in the model (HTTP 500).
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(Code::Internal, message)
    }

    /// The kind of failure.
    pub fn code(&self) -> Code {
        self.code
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// As for `anyhow::Error`: this type is no standard error itself, so that every standard error can become one.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::internal(error)
    }
}

pub(crate) fn from_ops(error: maquette_ops::Error) -> Error {
    Error {
        code: error.code,
        message: error.message,
    }
}

pub(crate) fn from_host(error: types::Error) -> Error {
    let code = match error.code {
        types::ErrorCode::InvalidInput => Code::InvalidInput,
        types::ErrorCode::Shape => Code::Shape,
        types::ErrorCode::Dtype => Code::DType,
        types::ErrorCode::Unsupported => Code::Unsupported,
        types::ErrorCode::Quota => Code::Quota,
        types::ErrorCode::Cancelled => Code::Cancelled,
        types::ErrorCode::Timeout => Code::Timeout,
        types::ErrorCode::Internal => Code::Internal,
    };
    Error {
        code,
        message: error.message,
    }
}

pub(crate) fn to_host(error: Error) -> types::Error {
    let code = match error.code {
        Code::InvalidInput => types::ErrorCode::InvalidInput,
        Code::Shape => types::ErrorCode::Shape,
        Code::DType => types::ErrorCode::Dtype,
        Code::Unsupported => types::ErrorCode::Unsupported,
        Code::Quota => types::ErrorCode::Quota,
        Code::Cancelled => types::ErrorCode::Cancelled,
        Code::Timeout => types::ErrorCode::Timeout,
        Code::Internal => types::ErrorCode::Internal,
    };
    types::Error {
        code,
        message: error.message,
    }
}

/// Adds to an error what was being done.
pub trait Context<T> {
    /// `context: message`.
    ///
    /// # Errors
    /// The same one, with more to say.
    fn context(self, context: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T> {
        self.map_err(|error| {
            let error = error.into();
            Error {
                message: format!("{context}: {}", error.message),
                ..error
            }
        })
    }
}

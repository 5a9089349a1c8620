//! What an op, a program or the host can answer instead of a tensor.

use std::fmt;

/// Why a call was refused or failed: the WIT's `error-code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The caller's input cannot be used.
    InvalidInput,
    /// Shapes do not fit.
    Shape,
    /// Element types do not fit.
    DType,
    /// There is no such op, file or feature here.
    Unsupported,
    /// A budget would be exceeded.
    Quota,
    /// The caller cancelled.
    Cancelled,
    /// The deadline passed.
    Timeout,
    /// A fault of the component or of the host.
    Internal,
}

impl Code {
    /// The code as the WIT spells it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InvalidInput => "invalid-input",
            Self::Shape => "shape",
            Self::DType => "dtype",
            Self::Unsupported => "unsupported",
            Self::Quota => "quota",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::Internal => "internal",
        }
    }
}

/// A code and one or two sentences that name the op, the shapes and the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind of failure.
    pub code: Code,
    /// For a person.
    pub message: String,
}

macro_rules! constructors {
    ($($name:ident => $code:ident),*) => {
        impl Error {
            $(
                #[doc = concat!("An error with [`Code::", stringify!($code), "`].")]
                #[cold]
                pub fn $name(message: impl Into<String>) -> Self {
                    Self { code: Code::$code, message: message.into() }
                }
            )*
        }
    };
}
constructors!(invalid_input => InvalidInput, shape => Shape, dtype => DType, unsupported => Unsupported, quota => Quota,
    cancelled => Cancelled, timeout => Timeout, internal => Internal);

impl Error {
    /// The same error, saying where.
    #[cold]
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.name(), self.message)
    }
}

impl std::error::Error for Error {}

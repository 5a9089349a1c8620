//! Why a component could not be prepared or opened.

use serde::{Deserialize, Serialize};

/// Who is at fault, which decides what happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorKind {
    /// The component or the package: its contributor has to change something.
    Component,
    /// The cached artifact is missing, damaged or of another host build: prepare the component again.
    Artifact,
    /// The host itself: its configuration, the machine, or a bug.
    Host,
}

/// An error outside of a call. Errors of a call are [`crate::Failure`]s.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Error {
    /// Who is at fault.
    pub kind: ErrorKind,
    /// What failed, where, and how to fix it.
    pub message: String,
    /// What the contributor may need beside it: the guest's own words and a backtrace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Error {
    /// The component or package is at fault.
    pub fn component(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Component,
            message: message.into(),
            detail: None,
        }
    }

    /// The cached artifact cannot be used.
    pub fn artifact(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Artifact,
            message: message.into(),
            detail: None,
        }
    }

    /// The host is at fault.
    pub fn host(message: impl Into<String>) -> Self {
        Self {
            kind: ErrorKind::Host,
            message: message.into(),
            detail: None,
        }
    }

    /// The same error with more for the contributor.
    pub fn with_detail(mut self, detail: Option<String>) -> Self {
        self.detail = detail;
        self
    }
}

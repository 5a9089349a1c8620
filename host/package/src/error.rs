//! What can go wrong: what failed, where, and how to fix it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::Digest;

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed, where and what to do about it. Displays as `where: what; help`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// What failed.
    pub what: String,
    /// File and line, key, or the name of the thing; empty if there is nothing to point at.
    pub place: String,
    /// How to fix it; empty if nobody knows.
    pub help: String,
}

/// Why work on a package failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `maquette.toml` is wrong. The place is `maquette.toml:LINE`.
    #[error("{0}")]
    Manifest(Note),
    /// A remote weight or asset has no `sha256`. [`crate::source::pins`] computes the missing ones.
    #[error("{0}")]
    Unpinned(Note),
    /// A canonical version manifest is wrong. The place is the field.
    #[error("{0}")]
    Version(Note),
    /// A weight or an asset could not be fetched. The place is the source.
    #[error("{0}")]
    Source(Note),
    /// Bytes do not have the digest that they should have.
    #[error("{what} has the sha256 {actual}, expected {expected}; {help}")]
    Mismatch {
        /// Which bytes.
        what: String,
        /// The digest asked for.
        expected: Digest,
        /// The digest found.
        actual: Digest,
        /// How to fix it.
        help: String,
    },
    /// The blob store has no such blob.
    #[error("the blob store {} has no blob {digest}", .store.display())]
    NoBlob {
        /// The blob asked for.
        digest: Digest,
        /// The store's folder.
        store: PathBuf,
    },
    /// The tools that build a guest are missing and could not be installed.
    #[error("{0}")]
    Toolchain(Note),
    /// A guest did not build. The place is its folder.
    #[error("{0}")]
    Build(Note),
    /// A component is not one that the host can run; the report lists why.
    #[error("{}: {}", .place, .report.summary())]
    Component {
        /// The file.
        place: String,
        /// Every problem.
        report: Box<crate::check::Report>,
    },
    /// A case is wrong. The place is its file.
    #[error("{0}")]
    Case(Note),
    /// The operating system refused something.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb: `read`, `create the folder`.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl Note {
    /// A note. Pass `""` for what is not known.
    pub fn new(place: impl fmt::Display, what: impl fmt::Display, help: impl fmt::Display) -> Self {
        Self {
            what: what.to_string(),
            place: place.to_string(),
            help: help.to_string(),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        f.write_str(&self.what)?;
        if !self.help.is_empty() {
            write!(f, "; {}", self.help)?;
        }
        Ok(())
    }
}

impl Error {
    /// What failed, where and the way out as separate texts, for a caller that lays them out on lines of their own. `None` for
    /// the kinds whose text is one sentence.
    pub fn note(&self) -> Option<&Note> {
        match self {
            Self::Manifest(note)
            | Self::Unpinned(note)
            | Self::Version(note)
            | Self::Source(note)
            | Self::Toolchain(note)
            | Self::Build(note)
            | Self::Case(note) => Some(note),
            Self::Mismatch { .. } | Self::NoBlob { .. } | Self::Component { .. } | Self::Io { .. } => None,
        }
    }

    /// Wraps an operating system's error: `.map_err(Error::io("read", path))`.
    pub(crate) fn io(what: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { what, path, source }
    }
}

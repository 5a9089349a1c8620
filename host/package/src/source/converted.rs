//! Notes in the cache of what conversions gave, by what they were given.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::{Convert, Digest, Error, Result, folder};

/// The longest note: a digest, and room to see that it is none.
const MAX: u64 = 80;

/// What one conversion of one blob gave.
pub(super) struct Note {
    folder: PathBuf,
    path: PathBuf,
}

impl Note {
    pub(super) fn new(cache: &Path, convert: Convert, source: &Digest) -> Self {
        let folder = cache.join("converted").join(convert.key());
        Self {
            path: folder.join(source.to_string()),
            folder,
        }
    }

    /// `None` too if it cannot be understood: converting again is the cure.
    pub(super) fn read(&self) -> Option<Digest> {
        folder::read_text(&self.path, MAX).ok()?.parse().ok()
    }

    pub(super) fn write(&self, digest: &Digest) -> Result<()> {
        folder::create(&self.folder)?;
        // Whole or not at all: another process may read it.
        let mut file =
            tempfile::NamedTempFile::new_in(&self.folder).map_err(Error::io("create a file in", &self.folder))?;
        write!(file, "{digest}").map_err(Error::io("write", file.path()))?;
        match file.persist(&self.path) {
            Ok(_) => Ok(()),
            // On some systems a file that is being read cannot be replaced; it says the same.
            Err(_) if fs::exists(&self.path).unwrap_or(false) => Ok(()),
            Err(e) => Err(Error::io("write", &self.path)(e.error)),
        }
    }
}

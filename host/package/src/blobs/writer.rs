//! Writing one blob: to a temporary file first, then, if its digest is right, into place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BlobStore, still_named};
use crate::{Digest, Error, Hasher, Result};

/// Receives the bytes of a blob. Dropped without [`BlobWriter::commit`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    store: BlobStore,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
    expected: Option<Digest>,
    committed: bool,
}

impl BlobWriter {
    pub(super) fn new(store: &BlobStore, expected: Option<Digest>) -> Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = store.temporary().join(name);
            let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => file,
                // A process with this number lived before and left it; the next number is free sooner or later.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(e) => return Err(Error::io("create", &path)(e)),
            };
            file.lock().map_err(Error::io("lock", &path))?;
            // Whoever opened the store between these two calls may have taken the file for an orphan.
            if still_named(&file, &path) {
                let (hasher, store) = (Hasher::default(), store.clone());
                return Ok(Self {
                    store,
                    path,
                    file,
                    hasher,
                    size: 0,
                    expected,
                    committed: false,
                });
            }
        }
    }

    /// How many bytes have been written.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The temporary file, for error messages.
    pub fn file_path(&self) -> &Path {
        &self.path
    }

    /// Makes the bytes written a blob, safe on the disk and visible to all. [`Error::Mismatch`], and nothing is kept, if they
    /// do not have the digest promised.
    pub fn commit(mut self) -> Result<Digest> {
        let actual = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = self.expected.filter(|e| *e != actual) {
            return Err(Error::Mismatch {
                what: format!("what was received ({} bytes)", self.size),
                expected,
                actual,
                help: "send the bytes that the digest was computed from".into(),
            });
        }
        self.store.publish(&self.file, &self.path, &actual)?;
        self.committed = true;
        Ok(actual)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.path);
        }
    }
}

//! A download that may be cut off: its bytes so far stay in the store, to be continued by any later process.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::{BlobStore, still_named};
use crate::{Digest, Error, Hasher, Result, folder};

/// The bytes that have arrived so far, and their running digest.
pub(crate) struct Partial {
    store: BlobStore,
    path: PathBuf,
    file: File,
    hasher: Hasher,
    size: u64,
}

impl Partial {
    pub(super) fn open(store: &BlobStore, key: &Digest, mut waits: impl FnMut()) -> Result<Self> {
        let path = store.parts().join(format!("{key}.part"));
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(Error::io("open", &path))?;
            folder::lock(&file, &path, &mut waits)?;
            if !still_named(&file, &path) {
                continue; // Another process finished or dropped this download while we waited.
            }
            let mut hasher = Hasher::default();
            let size = feed(&mut file, &mut hasher).map_err(Error::io("read", &path))?;
            return Ok(Self {
                store: store.clone(),
                path,
                file,
                hasher,
                size,
            });
        }
    }

    /// How many bytes are here.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Forgets all bytes.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(Error::io("truncate", &self.path))?;
        self.hasher = Hasher::default();
        self.size = 0;
        Ok(())
    }

    /// Adds bytes at the end.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// The digest of the bytes that are here.
    pub(crate) fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Makes the bytes a blob.
    pub(crate) fn adopt(self) -> Result<Digest> {
        let digest = self.digest();
        self.store.publish(&self.file, &self.path, &digest)?;
        Ok(digest)
    }

    /// Removes the file: there is nothing here worth continuing.
    pub(crate) fn discard(self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Hashes a file from its start to its end, where it is left positioned.
fn feed(file: &mut File, hasher: &mut Hasher) -> io::Result<u64> {
    let mut sink = HashSink(hasher);
    io::copy(file, &mut sink)
}

struct HashSink<'a>(&'a mut Hasher);

impl Write for HashSink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

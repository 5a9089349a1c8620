//! The content-addressed store: bytes in files that are named by their sha256 and never change.
//!
//! ```text
//! DIR/sha256/ab/abcdef…   a blob; it appears whole, by a rename, after its bytes are on the disk
//! DIR/tmp/…               being written; locked by its writer, removed by whoever opens the store after that writer is gone
//! DIR/parts/…             downloads that were cut off, kept to be resumed
//! ```
//! Any number of processes may use one store at once. No file name is ever built from anything but a [`Digest`].

mod partial;
mod writer;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub(crate) use partial::Partial;
pub use writer::BlobWriter;

use crate::{Digest, Error, Hasher, Result};

/// A cut-off download that nobody has resumed for this long is removed.
const PARTS_KEPT: Duration = Duration::from_secs(14 * 24 * 3600);

/// A folder of blobs. Cheap to clone; all state is on the disk.
#[derive(Clone, Debug)]
pub struct BlobStore {
    root: PathBuf,
}

impl BlobStore {
    /// Opens the store in `dir`, making the folder if there is none, and removes what writers that died have left behind.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        // Absolute, so that paths handed out stay right when the process changes its folder.
        let root = dir.canonicalize().map_err(Error::io("open the folder", dir))?;
        let store = Self { root };
        for folder in [store.blobs(), store.temporary(), store.parts()] {
            fs::create_dir_all(&folder).map_err(Error::io("create the folder", &folder))?;
        }
        sync_folder(&store.root)?;
        store.clean()?;
        Ok(store)
    }

    /// Whether the blob is here. Its content was verified when it came.
    pub fn has(&self, digest: &Digest) -> bool {
        self.path(digest).is_some()
    }

    /// The file that holds the blob, if it is here. Read it, map it; never write to it.
    pub fn path(&self, digest: &Digest) -> Option<PathBuf> {
        let path = self.place(digest);
        path.symlink_metadata().is_ok_and(|m| m.is_file()).then_some(path)
    }

    /// The size of the blob in bytes.
    pub fn size(&self, digest: &Digest) -> Result<u64> {
        let path = self.path(digest).ok_or_else(|| self.missing(digest))?;
        Ok(path.metadata().map_err(Error::io("read", &path))?.len())
    }

    /// The whole blob. For large ones use [`BlobStore::path`].
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest).ok_or_else(|| self.missing(digest))?;
        fs::read(&path).map_err(Error::io("read", &path))
    }

    /// Keeps `bytes` and returns their digest.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if self
            .path(&digest)
            .is_some_and(|p| p.metadata().is_ok_and(|m| m.len() == bytes.len() as u64))
        {
            return Ok(digest);
        }
        let mut writer = self.writer(&digest)?;
        io::Write::write_all(&mut writer, bytes).map_err(Error::io("write", writer.file_path()))?;
        writer.commit()
    }

    /// Starts to write a blob whose digest is known. Nothing is visible before [`BlobWriter::commit`].
    pub fn writer(&self, expected: &Digest) -> Result<BlobWriter> {
        BlobWriter::new(self, Some(*expected))
    }

    /// Starts to write a blob whose digest only its bytes will tell.
    pub fn writer_of_unknown(&self) -> Result<BlobWriter> {
        BlobWriter::new(self, None)
    }

    /// Hashes the blob's file again. [`Error::Mismatch`] if the disk or somebody has changed it.
    pub fn verify(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest).ok_or_else(|| self.missing(digest))?;
        let file = File::open(&path).map_err(Error::io("open", &path))?;
        let (actual, _) = hash(file).map_err(Error::io("read", &path))?;
        if actual == *digest {
            return Ok(());
        }
        Err(Error::Mismatch {
            what: format!("the blob file {}", path.display()),
            expected: *digest,
            actual,
            help: "the file was damaged after it was stored: remove it, and it will be fetched again".into(),
        })
    }

    /// Every blob here, in the order of the digests. Files that are not named as blobs are passed over.
    pub fn list(&self) -> Result<Vec<Digest>> {
        let mut found = Vec::new();
        for shard in entries(&self.blobs())? {
            if !shard.path().is_dir() {
                continue;
            }
            for entry in entries(&shard.path())? {
                let name = entry.file_name();
                let Some(digest) = name.to_str().and_then(|n| n.parse::<Digest>().ok()) else {
                    continue;
                };
                // A blob in the wrong folder would not be found by its digest: it is not there.
                if self.place(&digest) == entry.path() && self.has(&digest) {
                    found.push(digest);
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Removes the blob; false if it was not here. Who has it open or mapped keeps it until they let go.
    pub fn remove(&self, digest: &Digest) -> Result<bool> {
        let path = self.place(digest);
        match fs::remove_file(&path) {
            Ok(()) => {
                if let Some(shard) = path.parent() {
                    sync_folder(shard)?;
                }
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(Error::io("remove", &path)(e)),
        }
    }

    /// The part of a download named `key` that is here already, locked for this process. Calls `waits` and waits where
    /// another holds it.
    pub(crate) fn partial(&self, key: &Digest, waits: impl FnMut()) -> Result<Partial> {
        Partial::open(self, key, waits)
    }

    fn missing(&self, digest: &Digest) -> Error {
        Error::NoBlob {
            digest: *digest,
            store: self.root.clone(),
        }
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("sha256")
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("tmp")
    }

    fn parts(&self) -> PathBuf {
        self.root.join("parts")
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        let hex = digest.to_string();
        self.blobs().join(&hex[..2]).join(hex)
    }

    /// Makes a complete, synced file a blob: from now on it is visible, and a crash does not undo it.
    fn publish(&self, file: &File, path: &Path, digest: &Digest) -> Result<()> {
        let mut permissions = file.metadata().map_err(Error::io("read", path))?.permissions();
        permissions.set_readonly(true);
        file.set_permissions(permissions)
            .map_err(Error::io("set permissions of", path))?;
        file.sync_all().map_err(Error::io("sync", path))?;
        let place = self.place(digest);
        let shard = place.parent().unwrap_or(&self.root).to_owned();
        match fs::create_dir(&shard) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io("create the folder", &shard)(e));
            }
            _ => sync_folder(&self.blobs())?,
        }
        // Over an older file too: the bytes are the same, or the older one was damaged.
        fs::rename(path, &place).map_err(Error::io("move into place", &place))?;
        sync_folder(&shard)
    }

    /// Removes temporary files whose writers are gone, and parts that nobody will resume.
    fn clean(&self) -> Result<()> {
        for entry in entries(&self.temporary())? {
            let Ok(file) = File::open(entry.path()) else { continue };
            // A writer holds the lock as long as it lives; the kernel drops it with the process.
            if file.try_lock().is_ok() {
                let _ = fs::remove_file(entry.path());
            }
        }
        for entry in entries(&self.parts())? {
            let Ok(file) = File::open(entry.path()) else { continue };
            let modified = file
                .metadata()
                .and_then(|m| m.modified())
                .unwrap_or(SystemTime::UNIX_EPOCH);
            let old = modified.elapsed().is_ok_and(|age| age > PARTS_KEPT);
            if old && file.try_lock().is_ok() {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }
}

/// The digest and the length of everything in `reader`.
pub(crate) fn hash(mut reader: impl Read) -> io::Result<(Digest, u64)> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Makes the names in a folder survive a crash.
fn sync_folder(path: &Path) -> Result<()> {
    File::open(path)
        .and_then(|f| f.sync_all())
        .map_err(Error::io("sync the folder", path))
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    let listed = fs::read_dir(folder).map_err(Error::io("list", folder))?;
    listed.collect::<io::Result<_>>().map_err(Error::io("list", folder))
}

/// Whether `file` is still what `path` names: it is not after another process has removed or replaced it.
#[cfg(unix)]
fn still_named(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), path.symlink_metadata()) {
        (Ok(a), Ok(b)) => a.ino() == b.ino() && a.dev() == b.dev(),
        _ => false,
    }
}

#[cfg(not(unix))]
fn still_named(_file: &File, path: &Path) -> bool {
    path.is_file()
}

#[cfg(test)]
mod tests;

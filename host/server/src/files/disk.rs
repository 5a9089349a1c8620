//! Files' bytes on disk, each under its id. A file is written beside, hashed on the way, synced, and moved into place; half a file is
//! never seen.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use md5::Md5;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;

/// What is known of bytes that have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Bytes.
    pub(crate) size: u64,
    /// Their sha256.
    pub(crate) sha256: [u8; 32],
    /// Their md5, which clients of today ask for; nothing here trusts it.
    pub(crate) md5: [u8; 16],
}

/// The folder.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    root: PathBuf,
}

impl Disk {
    /// Opens or makes the folder; what never arrived whole is removed.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let arriving = root.join("tmp");
        match fs::remove_dir_all(&arriving) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        fs::create_dir_all(&arriving)?;
        Ok(Self { root: root.to_owned() })
    }

    /// A file that arrives now.
    pub(crate) fn incoming(&self) -> io::Result<Incoming> {
        Ok(Incoming {
            file: NamedTempFile::new_in(self.root.join("tmp"))?,
            size: 0,
            sha256: Sha256::new(),
            md5: Md5::new(),
        })
    }

    /// Where a file lies.
    pub(crate) fn path(&self, id: &str) -> PathBuf {
        self.root.join(id.get(..2).unwrap_or("_")).join(id)
    }

    /// Removes a file; one that is gone already is as well.
    pub(super) fn remove(&self, id: &str) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// The ids of all files.
    pub(super) fn list(&self) -> io::Result<Vec<String>> {
        let mut ids = Vec::new();
        for shard in fs::read_dir(&self.root)? {
            let shard = shard?;
            if shard.file_name() == "tmp" || !shard.file_type()?.is_dir() {
                continue;
            }
            for entry in fs::read_dir(shard.path())? {
                ids.extend(entry?.file_name().into_string());
            }
        }
        Ok(ids)
    }
}

/// A file on its way; dropped, it is gone.
pub(crate) struct Incoming {
    file: NamedTempFile,
    size: u64,
    sha256: Sha256,
    md5: Md5,
}

impl Incoming {
    /// Adds bytes.
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.as_file_mut().write_all(piece)?;
        self.size += piece.len() as u64;
        self.sha256.update(piece);
        self.md5.update(piece);
        Ok(())
    }

    /// Makes it the file of this id: from now on a crash does not undo it.
    pub(super) fn keep(self, disk: &Disk, id: &str) -> io::Result<Sums> {
        self.file.as_file().sync_all()?;
        let place = disk.path(id);
        let shard = place.parent().unwrap_or(&disk.root);
        match fs::create_dir(shard) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            Err(_) => {}
            Ok(()) => File::open(&disk.root)?.sync_all()?,
        }
        self.file.persist(&place).map_err(|e| e.error)?;
        File::open(shard)?.sync_all()?;
        Ok(Sums {
            size: self.size,
            sha256: self.sha256.finalize().into(),
            md5: self.md5.finalize().into(),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_seen_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        let mut kept = disk.incoming().unwrap();
        kept.write(b"ab").unwrap();
        kept.write(b"c").unwrap();
        let mut left = disk.incoming().unwrap();
        left.write(b"half").unwrap();
        let sums = kept.keep(&disk, "kept").unwrap();
        assert_eq!(
            (sums.size, hex::encode(sums.md5).as_str()),
            (3, "900150983cd24fb0d6963f7d28e17f72")
        );
        assert_eq!(
            hex::encode(sums.sha256),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            (disk.list().unwrap(), fs::read(disk.path("kept")).unwrap()),
            (vec!["kept".to_owned()], b"abc".to_vec())
        );
        drop(left);
        assert_eq!(fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
        fs::write(folder.path().join("tmp/crashed"), "x").unwrap();
        let disk = Disk::open(folder.path()).unwrap();
        assert!(!folder.path().join("tmp/crashed").exists() && disk.list().unwrap() == ["kept"]);
        disk.remove("kept").unwrap();
        disk.remove("kept").unwrap();
        assert!(disk.list().unwrap().is_empty());
    }
}

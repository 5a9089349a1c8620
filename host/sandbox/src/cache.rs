//! Compiled components on disk. A name says what the code was made from and for which host; the digest that the caller kept
//! says whether it is still what was written. Only this user may read or write the folder, for what lies there is run.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::engine::Engine;
use crate::error::Error;

/// Creates a folder that only this user can enter, or checks that an existing one is such.
pub(crate) fn create_private_folder(path: &Path) -> Result<(), Error> {
    let fail = |what: &str, e: std::io::Error| Error::host(format!("cache folder {}: {what}: {e}", path.display()));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| fail("cannot create it", e))?;
    let metadata = fs::metadata(path).map_err(|e| fail("cannot look at it", e))?;
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(Error::host(format!(
            "cache folder {} belongs to another user; compiled code is run from it, so choose a folder of your own",
            path.display()
        )));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(|e| fail("cannot make it private", e))?;
    }
    Ok(())
}

/// A compiled component in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Artifact {
    /// File name inside the cache folder.
    pub(crate) name: String,
    /// sha256 of the file, in hex.
    pub(crate) sha256: String,
    /// Its size.
    pub(crate) bytes: u64,
}

/// Writes compiled code: a crash leaves either nothing or the whole file. The name has the code's digest in it: two who prepare
/// the same component at once (a snapshot is not the same bytes twice) do not overwrite each other.
pub(crate) fn store(engine: &Engine, key: &str, code: &[u8]) -> Result<Artifact, Error> {
    let folder = engine.cache();
    let sha256 = hex::encode(Sha256::digest(code));
    let name = format!("{key}.{}.{}.cwasm", &sha256[..16], engine.compatibility());
    let fail = |e: std::io::Error| Error::host(format!("writing {name} into {}: {e}", folder.display()));
    let mut file = tempfile::Builder::new()
        .prefix(".partial-")
        .tempfile_in(folder)
        .map_err(fail)?;
    file.write_all(code).map_err(fail)?;
    file.as_file().sync_all().map_err(fail)?;
    file.persist(folder.join(&name)).map_err(|e| fail(e.error))?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(fail)?;
    Ok(Artifact {
        sha256,
        bytes: code.len() as u64,
        name,
    })
}

/// The file that records how a component was prepared on this host.
pub(crate) fn record(engine: &Engine, key: &str) -> PathBuf {
    engine.cache().join(format!("{key}.{}.json", engine.compatibility()))
}

/// Finds an artifact and checks that nobody has touched it.
pub(crate) fn find(engine: &Engine, artifact: &Artifact) -> Result<PathBuf, Error> {
    if !artifact.name.ends_with(&format!(".{}.cwasm", engine.compatibility())) || artifact.name.contains('/') {
        return Err(Error::artifact(
            "the component was compiled by another build of the host: prepare it again",
        ));
    }
    let path = engine.cache().join(&artifact.name);
    let mut file = File::open(&path).map_err(|e| Error::artifact(format!("{}: {e}", artifact.name)))?;
    let mut sha = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = file
            .read(&mut buffer)
            .map_err(|e| Error::artifact(format!("{}: {e}", artifact.name)))?;
        if n == 0 {
            break;
        }
        sha.update(&buffer[..n]);
    }
    if hex::encode(sha.finalize()) != artifact.sha256 {
        return Err(Error::artifact(format!(
            "{} is not what was written, its digest differs: prepare the component again",
            artifact.name
        )));
    }
    Ok(path)
}

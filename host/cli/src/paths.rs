//! Where this user's things are kept: the server's data, and what can be made again.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The server's data folder where the command line names none: `MAQUETTE_DATA`, else the system's folder for such things.
pub(crate) fn data() -> PathBuf {
    if let Some(folder) = from_env("MAQUETTE_DATA") {
        return folder;
    }
    match directories::ProjectDirs::from("", "", "maquette") {
        Some(dirs) => dirs.data_dir().to_owned(),
        // No home folder: a container that runs as a user without one.
        None => PathBuf::from("maquette-data"),
    }
}

/// What can be made again: downloads, guest builds, compiled components. `MAQUETTE_CACHE`, else the system's folder.
pub(crate) fn cache() -> PathBuf {
    if let Some(folder) = from_env("MAQUETTE_CACHE") {
        return folder;
    }
    match directories::ProjectDirs::from("", "", "maquette") {
        Some(dirs) => dirs.cache_dir().to_owned(),
        None => std::env::temp_dir().join("maquette-cache"),
    }
}

/// The file in a data folder that holds the token which allows everything.
pub(crate) fn admin_token(data: &Path) -> PathBuf {
    data.join("admin.token")
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Makes a folder that only this user can open.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Failure::file("make the folder", path, &e))
}

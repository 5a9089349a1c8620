//! Files inside a contributor's folder: nothing outside it is read on its behalf.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use crate::{Error, Note, Result};

/// The regular file at `relative` inside `folder`. An absolute path, one with `..`, and one that leads out of the folder
/// through a symbolic link are refused.
pub(crate) fn inside(folder: &Path, relative: &Path) -> Result<PathBuf> {
    let shown = relative.display();
    let refuse = |what: String, help: &str| Err(Error::Source(Note::new(shown.to_string(), what, help)));
    let copy = "copy the file into the model's folder and name it relative to that";
    if relative
        .components()
        .any(|c| !matches!(c, Component::Normal(_) | Component::CurDir))
    {
        return refuse("the path leads out of the model's folder".into(), copy);
    }
    let root = folder.canonicalize().map_err(Error::io("open the folder", folder))?;
    let path = match root.join(relative).canonicalize() {
        Ok(path) => path,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return refuse(
                format!("there is no such file in {}", folder.display()),
                "check the spelling",
            );
        }
        Err(e) => return Err(Error::io("open", root.join(relative))(e)),
    };
    if !path.starts_with(&root) {
        return refuse(
            "the path leads out of the model's folder through a symbolic link".into(),
            copy,
        );
    }
    if !path.is_file() {
        return refuse("this is not a file".into(), "name a file, not a folder");
    }
    Ok(path)
}

/// The bytes of a file of at most `most` bytes.
pub(crate) fn read_bytes(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(Error::io("open", path))?;
    let mut bytes = Vec::new();
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(Error::io("read", path))?;
    if bytes.len() as u64 > most {
        let what = format!("the file has more than {most} bytes");
        return Err(Error::Source(Note::new(path.display(), what, "it must be smaller")));
    }
    Ok(bytes)
}

/// The text of a file of at most `most` bytes.
pub(crate) fn read_text(path: &Path, most: u64) -> Result<String> {
    String::from_utf8(read_bytes(path, most)?).map_err(|e| {
        let what = format!("byte {} is not UTF-8", e.utf8_error().valid_up_to());
        Error::Source(Note::new(path.display(), what, "save the file as UTF-8"))
    })
}

/// Where this user's downloads and guest builds are kept: `MAQUETTE_CACHE`, else the system's folder for such things.
pub(crate) fn cache() -> PathBuf {
    if let Some(folder) = std::env::var_os("MAQUETTE_CACHE").filter(|v| !v.is_empty()) {
        return PathBuf::from(folder);
    }
    match directories::ProjectDirs::from("", "", "maquette") {
        Some(dirs) => dirs.cache_dir().to_owned(),
        // No home folder: a container that runs as a user without one.
        None => std::env::temp_dir().join("maquette-cache"),
    }
}

/// Locks a file for this process alone. Where another has it, calls `waits` and waits.
pub(crate) fn lock(file: &File, path: &Path, waits: impl FnOnce()) -> Result<()> {
    if file.try_lock().is_ok() {
        return Ok(());
    }
    waits();
    file.lock().map_err(Error::io("lock", path))
}

/// Makes a folder and all above it.
pub(crate) fn create(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(Error::io("create the folder", path))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn only_files_inside_the_folder_are_found() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("model");
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(outer.path().join("secret"), "s").unwrap();
        fs::write(folder.join("sub/w.bin"), "w").unwrap();
        let found = inside(&folder, Path::new("./sub/w.bin")).unwrap();
        assert_eq!(fs::read(found).unwrap(), b"w");
        for (path, expected) in [
            ("../secret", "leads out of the model's folder"),
            ("sub/../../secret", "leads out of the model's folder"),
            ("/etc/passwd", "leads out of the model's folder"),
            ("sub", "not a file"),
            ("missing", "no such file"),
        ] {
            let error = inside(&folder, Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(expected), "{path}: {error}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_leads_nowhere_outside() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("model");
        fs::create_dir(&folder).unwrap();
        fs::write(outer.path().join("secret"), "s").unwrap();
        fs::write(folder.join("real"), "r").unwrap();
        std::os::unix::fs::symlink("../secret", folder.join("link")).unwrap();
        std::os::unix::fs::symlink(outer.path(), folder.join("up")).unwrap();
        std::os::unix::fs::symlink("real", folder.join("alias")).unwrap();
        for path in ["link", "up/secret"] {
            let error = inside(&folder, Path::new(path)).unwrap_err().to_string();
            assert!(error.contains("through a symbolic link"), "{error}");
        }
        assert_eq!(fs::read(inside(&folder, Path::new("alias")).unwrap()).unwrap(), b"r");
    }

    #[test]
    fn a_file_over_its_limit_is_refused_unread() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big");
        fs::write(&path, [0; 11]).unwrap();
        assert_eq!(read_bytes(&path, 11).unwrap().len(), 11);
        assert!(
            read_bytes(&path, 10)
                .unwrap_err()
                .to_string()
                .contains("more than 10 bytes")
        );
    }

    #[test]
    fn text_that_is_not_utf8_is_named_with_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("latin1");
        fs::write(&path, b"caf\xe9").unwrap();
        assert!(
            read_text(&path, 10)
                .unwrap_err()
                .to_string()
                .contains("byte 3 is not UTF-8")
        );
    }
}

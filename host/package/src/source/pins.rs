//! Finding the digests that a manifest lacks.

use std::fmt;
use std::path::Path;

use super::{Fetcher, Source};
use crate::blobs::BlobStore;
use crate::manifest::Manifest;
use crate::{Convert, Digest, Progress, Result, shards};

/// The digest of a remote source that has none yet. Displays as the lines to add to the manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// `weights` or `assets`.
    pub kind: &'static str,
    /// The entry's name.
    pub name: String,
    /// The shard's number, from 1 on, if its weights are in several files.
    pub shard: Option<usize>,
    /// Its source.
    pub source: Source,
    /// The line of `maquette.toml` where the entry starts.
    pub line: usize,
    /// The digest of what the source gives today.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// How it is converted, and the digest of the result.
    pub converted: Option<(Convert, Digest)>,
}

/// Fetches every remote entry of `manifest` (from [`Manifest::read_unpinned`]) that has no digest, and tells what it has now. The
/// bytes are then in the store, so the next build does not fetch them again.
pub fn pins(folder: &Path, manifest: &Manifest, store: &BlobStore, progress: &mut dyn Progress) -> Result<Vec<Pin>> {
    let fetcher = Fetcher::new(folder, store);
    let missing = manifest
        .entries()
        .filter(|(_, _, e)| e.sha256.is_none() && e.source.is_remote());
    missing
        .map(|(kind, name, entry)| {
            let fetched = fetcher.fetch(entry, progress)?;
            // What is pinned is what the source gives.
            let (digest, size) = fetched.source.unwrap_or((fetched.digest, fetched.size));
            Ok(Pin {
                kind,
                name: name.to_owned(),
                shard: shard(manifest, kind, name),
                source: entry.source.clone(),
                line: entry.line,
                digest,
                size,
                converted: entry.convert.map(|convert| (convert, fetched.digest)),
            })
        })
        .collect()
}

/// Which shard an entry is, if its weights have more than one.
fn shard(manifest: &Manifest, kind: &str, name: &str) -> Option<usize> {
    let (weights, number) = shards::split(name).filter(|_| kind == "weights")?;
    manifest
        .weights
        .contains_key(&shards::name(weights, 2))
        .then_some(number)
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            name,
            shard,
            source,
            digest,
            size,
            converted,
            ..
        } = self;
        if let Some(number) = shard {
            let weights = shards::split(name).map_or(name.as_str(), |(weights, _)| weights);
            let place = format!("# shard {number} of [{kind}.{weights}], in `shards`");
            return write!(
                f,
                "{place}\n{{ source = \"{source}\", sha256 = \"{digest}\", size = {size} }},"
            );
        }
        let bare = name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        let name = if bare { name.clone() } else { format!("\"{name}\"") };
        write!(
            f,
            "[{kind}.{name}]\nsource = \"{source}\"\nsha256 = \"{digest}\"\nsize = {size}"
        )?;
        match converted {
            Some((convert, digest)) => write!(f, "\nconvert = \"{convert}\"\nconverted_sha256 = \"{digest}\""),
            None => Ok(()),
        }
    }
}

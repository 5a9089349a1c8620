//! Outputs of identical inputs: a deterministic version's output is computed once and kept for a while, for its caller alone.
//! Two identical calls at the same time are one run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::live::Live;
use crate::engine::{InputFile, OutputFile};
use crate::names::VersionId;

/// Names an input of a version and of an owner: its sha256.
pub(crate) type CacheKey = [u8; 32];

/// What is kept of a run.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// The output's JSON, files as references.
    pub(crate) json: String,
    /// Its files.
    pub(crate) files: Vec<OutputFile>,
    /// What the guest logged.
    pub(crate) logs: String,
    /// JSON of the figures that the guest set.
    pub(crate) metrics: String,
}

impl Kept {
    fn bytes(&self) -> usize {
        let files: usize = self.files.iter().map(|file| file.bytes.len()).sum();
        256 + self.json.len() + files + self.logs.len() + self.metrics.len()
    }
}

/// The cache, and the runs that others may share.
pub(crate) struct Cache {
    kept: moka::sync::Cache<CacheKey, Arc<Kept>>,
    flights: Mutex<HashMap<CacheKey, Arc<Live>>>,
    /// The largest entry, in bytes.
    largest: usize,
}

impl Cache {
    /// Keeps outputs for `lifetime`, together at most `bytes`.
    pub(crate) fn new(bytes: u64, lifetime: Duration) -> Self {
        let kept = moka::sync::Cache::builder()
            .max_capacity(bytes)
            .weigher(|_, kept: &Arc<Kept>| u32::try_from(kept.bytes()).unwrap_or(u32::MAX))
            .time_to_live(lifetime)
            .build();
        Self {
            kept,
            flights: Mutex::default(),
            largest: usize::try_from(bytes / 16).unwrap_or(usize::MAX),
        }
    }

    /// An output that is there.
    pub(crate) fn get(&self, key: &CacheKey) -> Option<Arc<Kept>> {
        self.kept.get(key)
    }

    /// Keeps an output, if it is not too large.
    pub(crate) fn put(&self, key: CacheKey, kept: Kept) {
        if kept.bytes() <= self.largest {
            self.kept.insert(key, Arc::new(kept));
        }
    }

    /// The run that others with this input share: one that runs already, or else this one.
    pub(crate) fn lead(&self, key: CacheKey, live: &Arc<Live>) -> Option<Arc<Live>> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.entry(key) {
            std::collections::hash_map::Entry::Occupied(leader) => Some(Arc::clone(leader.get())),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(Arc::clone(live));
                None
            }
        }
    }

    /// The run is over; whoever comes now begins another or finds its output.
    pub(crate) fn land(&self, key: &CacheKey, live: &Arc<Live>) {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if flights.get(key).is_some_and(|leader| Arc::ptr_eq(leader, live)) {
            flights.remove(key);
        }
    }
}

/// The key of an input: owner, version, canonical JSON (RFC 8785) with files in the order of their references, each file by its
/// digest. Nothing if the input cannot be written so.
pub(crate) fn key(owner: &str, version: VersionId, input: &Value, files: &[InputFile]) -> Option<CacheKey> {
    let canonical = serde_json_canonicalizer::to_vec(input).ok()?;
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(owner.as_bytes());
    part(&version.0);
    part(&canonical);
    for file in files {
        part(file.media_type.as_bytes());
        part(&Sha256::digest(&file.bytes));
    }
    Some(hash.finalize().into())
}

/// Whether a run with this input may be answered from the cache: its version says that it is deterministic, or the input sets
/// its seed.
pub(crate) fn is_deterministic(declared: Option<bool>, input: &Value) -> bool {
    match declared {
        Some(declared) => declared,
        None => input.get("seed").is_some_and(|seed| seed.is_u64() || seed.is_i64()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn file(media_type: &str, bytes: &[u8]) -> InputFile {
        InputFile {
            media_type: media_type.to_owned(),
            bytes: bytes.into(),
        }
    }

    #[test]
    fn a_key_names_owner_version_input_and_files_and_not_how_they_are_written() {
        let one = VersionId([1; 32]);
        let base = key("o", one, &json!({"a": 1, "b": [1.0]}), &[]).unwrap();
        let same: Value = serde_json::from_str(r#"{ "b": [1e0], "a": 1 }"#).unwrap();
        assert_eq!(key("o", one, &same, &[]).unwrap(), base);
        let others = [
            key("p", one, &json!({"a": 1, "b": [1.0]}), &[]),
            key("o", VersionId([2; 32]), &json!({"a": 1, "b": [1.0]}), &[]),
            key("o", one, &json!({"a": 2, "b": [1.0]}), &[]),
            key("o", one, &json!({"a": 1, "b": [1.0]}), &[file("a/b", b"x")]),
            key("o", one, &json!({"a": 1, "b": [1.0]}), &[file("a/b", b"y")]),
            key("o", one, &json!({"a": 1, "b": [1.0]}), &[file("a/c", b"x")]),
        ];
        let mut all: Vec<_> = others.into_iter().map(Option::unwrap).chain([base]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 7);
    }

    #[test]
    fn a_seed_makes_a_run_deterministic_unless_the_version_says_otherwise() {
        assert!(is_deterministic(None, &json!({"seed": 3})));
        assert!(!is_deterministic(None, &json!({"seed": null})));
        assert!(!is_deterministic(None, &json!({})));
        assert!(is_deterministic(Some(true), &json!({})));
        assert!(!is_deterministic(Some(false), &json!({"seed": 3})));
    }
}

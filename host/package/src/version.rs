//! A version's identity: one canonical JSON document of names, sizes and digests, whose sha256 is the version's id.
//!
//! Two packages with the same bytes have the same id wherever they were assembled; any other byte anywhere gives another id.

mod strict;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Digest, Error, Note, Result, names};

/// The only `schema` there is so far.
pub const SCHEMA: u32 = 1;
/// The longest manifest that is read, in bytes of JSON.
pub const MAX_JSON: usize = 1 << 20;
/// The largest component, in bytes.
pub const MAX_COMPONENT: u64 = 64 << 20;
/// The most weights of a version; each may be [several files](crate::shards).
pub const MAX_WEIGHTS: usize = 64;
/// The most assets of a version.
pub const MAX_ASSETS: usize = 256;
/// The most cases of a version.
pub const MAX_CASES: usize = 256;
/// The largest case or model card, in bytes.
pub const MAX_TEXT: u64 = 16 << 20;
/// The longest `description`, in characters.
pub const MAX_DESCRIPTION: usize = 4096;
/// Sizes and limits stay below this (2^53): JSON numbers above it are not exact.
pub const MAX_NUMBER: u64 = 1 << 53;

/// A blob that a version consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Its digest.
    pub sha256: Digest,
    /// Its length in bytes; at least 1.
    pub size: u64,
}

/// What a version asks for. What is absent is left to the server's default; what is given is granted at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Wall-clock time of one call, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// The guest's linear memories together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Tensors and temporaries alive at once, in bytes, weights not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensor_bytes: Option<u64>,
    /// JSON output of one call, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_bytes: Option<u64>,
    /// Output files of one call together, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_bytes: Option<u64>,
    /// Log of one call, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
}

/// Everything that a version is. See the module's description; the JSON has these fields and no others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VersionManifest {
    /// The format of this document: [`SCHEMA`].
    pub schema: u32,
    /// The model's name, without its owner.
    pub name: String,
    /// The contributor's number for this version (semver), such as `1.2.0`.
    pub version: String,
    /// One sentence or a few; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The licence (an SPDX expression, if there is one for it).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// What the model does, such as `text-embedding`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// Whether equal inputs have equal outputs, so that a server may answer from what it computed before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deterministic: Option<bool>,
    /// The WebAssembly component.
    pub component: Blob,
    /// The weight files by the names under which the guest knows them; shards after the first as [`crate::shards`] names them.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "strict::unique"
    )]
    pub weights: BTreeMap<String, Blob>,
    /// The assets by the names under which the guest knows them.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "strict::unique"
    )]
    pub assets: BTreeMap<String, Blob>,
    /// What the version asks for.
    #[serde(default)]
    pub limits: Limits,
    /// The cases ([`crate::cases::Case::to_json`]), in the order of their names.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<Blob>,
    /// The model card, in Markdown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readme: Option<Blob>,
}

impl VersionManifest {
    /// The document in canonical form (RFC 8785): the bytes that [`VersionManifest::id`] hashes and that a server stores.
    pub fn canonical_json(&self) -> String {
        // Strings, integers below 2^53 and maps with string keys: there is nothing in it that cannot be written.
        serde_json_canonicalizer::to_string(self).unwrap_or_default()
    }

    /// The version's id.
    pub fn id(&self) -> Digest {
        Digest::of(self.canonical_json().as_bytes())
    }

    /// Reads and checks a document. Order, spacing and escapes may differ from the canonical form; the id does not depend on
    /// them. Fields that this build does not know are refused: their meaning could not be kept.
    pub fn from_json(json: &str) -> Result<Self> {
        if json.len() > MAX_JSON {
            let what = format!("the document has {} bytes, at most {MAX_JSON} are read", json.len());
            return Err(Error::Version(Note::new("manifest", what, "")));
        }
        let manifest: Self = serde_json::from_str(json).map_err(|e| {
            let help = "send a version's manifest as `maquette publish` writes it";
            Error::Version(Note::new(
                format!("manifest line {} column {}", e.line(), e.column()),
                strict::plain(&e),
                help,
            ))
        })?;
        manifest.check()?;
        Ok(manifest)
    }

    /// Checks every rule that the types do not hold by themselves. [`VersionManifest::from_json`] does this too.
    pub fn check(&self) -> Result<()> {
        strict::check(self)
    }

    /// Every blob of the version, each once, in a fixed order: component, weights, assets, cases, readme.
    pub fn blobs(&self) -> impl Iterator<Item = Blob> {
        let mut seen = std::collections::HashSet::new();
        let all = std::iter::once(&self.component)
            .chain(self.weights.values())
            .chain(self.assets.values())
            .chain(&self.cases)
            .chain(&self.readme);
        all.copied()
            .filter(|b| seen.insert(b.sha256))
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The digests of [`VersionManifest::blobs`].
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.blobs().map(|b| b.sha256)
    }

    /// The bytes of all blobs together.
    pub fn total_bytes(&self) -> u64 {
        self.blobs().map(|b| b.size).fold(0, u64::saturating_add)
    }
}

impl Limits {
    /// Each limit that can be given, by its name.
    pub(crate) fn each(&self) -> [(&'static str, Option<u64>); 6] {
        [
            ("timeout_ms", self.timeout_ms),
            ("memory_bytes", self.memory_bytes),
            ("tensor_bytes", self.tensor_bytes),
            ("output_bytes", self.output_bytes),
            ("file_bytes", self.file_bytes),
            ("log_bytes", self.log_bytes),
        ]
    }
}

/// Whether `name` may name a model, an owner, a weight file or an asset: 1 to 64 characters of a-z, 0-9, `-`, `_` and `.`.
pub fn valid_name(name: &str) -> bool {
    names::valid(name)
}

#[cfg(test)]
mod tests;

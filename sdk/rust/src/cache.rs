//! Key-value caches: what a decoder's attention keeps of the places before, in the host.

pub use maquette_ops::program::CacheSpec;

use crate::Result;
use crate::bindings::maquette::model::kv_cache as host;
use crate::error::from_host;

/// A cache of one sequence, for programs that were recorded with [`Recorder::cache`](crate::Recorder::cache).
pub struct KvCache(host::Cache);

impl KvCache {
    /// An empty cache for at most `capacity` places in time. Its memory is charged as it grows.
    ///
    /// # Errors
    /// `shape` if a size is 0; `quota` if there are too many layers.
    pub fn new(spec: &CacheSpec, capacity: usize) -> Result<Self> {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        host::Cache::create(spec_to_host(spec), capacity)
            .map(Self)
            .map_err(from_host)
    }

    /// How many places it holds.
    pub fn len(&self) -> usize {
        self.0.length() as usize
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all but the first `len` places.
    ///
    /// # Errors
    /// `invalid-input` if it holds fewer.
    pub fn truncate(&self, len: usize) -> Result<()> {
        self.0
            .truncate(u32::try_from(len).unwrap_or(u32::MAX))
            .map_err(from_host)
    }

    /// Another cache with the same contents, which costs nothing until one of the two grows: for several answers to one prompt.
    ///
    /// # Errors
    /// `quota` if there are too many caches.
    pub fn fork(&self) -> Result<Self> {
        self.0.fork().map(Self).map_err(from_host)
    }

    pub(crate) fn handle(&self) -> &host::Cache {
        &self.0
    }
}

pub(crate) fn spec_to_host(spec: &CacheSpec) -> host::Spec {
    host::Spec {
        layers: spec.layers,
        heads: spec.heads,
        width: spec.width,
        value_width: spec.value_width,
    }
}

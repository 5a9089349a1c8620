//! `kv-cache`: what decoders keep of the places before, in the host.

use maquette_tensor::KvCache;
use maquette_tensor::ops::Error;
use maquette_tensor::ops::program::CacheSpec;
use wasmtime::component::Resource;

use super::{stale, too_many};
use crate::bindings::CacheHandle;
use crate::bindings::maquette::model::kv_cache;
use crate::state::{HostError, State};

impl From<kv_cache::Spec> for CacheSpec {
    fn from(spec: kv_cache::Spec) -> Self {
        Self {
            layers: spec.layers,
            heads: spec.heads,
            width: spec.width,
            value_width: spec.value_width,
        }
    }
}

impl State {
    /// The cache behind a handle.
    pub(super) fn cache(&self, handle: &Resource<CacheHandle>) -> wasmtime::Result<&KvCache> {
        self.caches.get(handle.rep()).ok_or_else(|| stale("cache"))
    }

    fn hand_out_cache(&mut self, cache: KvCache) -> Result<Resource<CacheHandle>, Error> {
        self.caches
            .insert(cache)
            .map(Resource::new_own)
            .ok_or_else(|| too_many("caches"))
    }
}

impl kv_cache::Host for State {}

impl kv_cache::HostCache for State {
    fn create(&mut self, spec: kv_cache::Spec, capacity: u32) -> Result<Resource<CacheHandle>, HostError> {
        self.enter("kv-cache.cache.create")?;
        let cache = KvCache::new(self.scope().budget(), spec.into(), capacity)?;
        Ok(self.hand_out_cache(cache)?)
    }

    fn length(&mut self, this: Resource<CacheHandle>) -> wasmtime::Result<u32> {
        self.enter("kv-cache.cache.length")?;
        Ok(self.cache(&this)?.len())
    }

    fn truncate(&mut self, this: Resource<CacheHandle>, length: u32) -> Result<(), HostError> {
        self.enter("kv-cache.cache.truncate")?;
        Ok(self.cache(&this)?.truncate(length)?)
    }

    fn fork(&mut self, this: Resource<CacheHandle>) -> Result<Resource<CacheHandle>, HostError> {
        self.enter("kv-cache.cache.fork")?;
        let fork = self.cache(&this)?.fork()?;
        Ok(self.hand_out_cache(fork)?)
    }

    fn drop(&mut self, this: Resource<CacheHandle>) -> wasmtime::Result<()> {
        self.caches.remove(this.rep()).map(drop).ok_or_else(|| stale("cache"))
    }
}

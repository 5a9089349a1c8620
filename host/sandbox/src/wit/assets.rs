//! `assets`: the version's small files.

use std::os::unix::fs::FileExt as _;

use maquette_tensor::ops::Error;

use crate::bindings::maquette::model::assets;
use crate::state::{Asset, HostError, State};

impl State {
    fn asset(&self, name: &str) -> Result<&Asset, Error> {
        self.package.assets.get(name).ok_or_else(|| {
            let names: Vec<_> = self.package.assets.keys().map(String::as_str).collect();
            Error::unsupported(format!(
                "this version has no asset `{name}`; it has: {}. Assets are named in [assets] of maquette.toml",
                if names.is_empty() {
                    "none".to_owned()
                } else {
                    names.join(", ")
                }
            ))
        })
    }

    fn read_asset(&self, name: &str, offset: u64, len: u64) -> Result<Vec<u8>, Error> {
        let asset = self.asset(name)?;
        let len = asset.size.saturating_sub(offset).min(len);
        let limit = self.package.limits.memory_bytes;
        if len > limit {
            return Err(Error::quota(format!(
                "asset `{name}`: {len} bytes exceed the guest's memory limit of {limit} bytes: read it in pieces with read-range"
            )));
        }
        let mut bytes = vec![0; len as usize];
        asset
            .file
            .read_exact_at(&mut bytes, offset)
            .map_err(|e| Error::internal(format!("asset `{name}`: {e}")))?;
        Ok(bytes)
    }
}

impl assets::Host for State {
    fn names(&mut self) -> wasmtime::Result<Vec<String>> {
        self.crossings += 1;
        Ok(self.package.assets.keys().cloned().collect())
    }

    fn size(&mut self, name: String) -> Result<u64, HostError> {
        self.crossings += 1;
        Ok(self.asset(&name)?.size)
    }

    fn read(&mut self, name: String) -> Result<Vec<u8>, HostError> {
        self.crossings += 1;
        Ok(self.read_asset(&name, 0, u64::MAX)?)
    }

    fn read_range(&mut self, name: String, offset: u64, len: u64) -> Result<Vec<u8>, HostError> {
        self.crossings += 1;
        Ok(self.read_asset(&name, offset, len)?)
    }
}

//! `weights`: the version's weight files, loaded once in the host and shared by every sandbox.

use std::sync::Arc;

use maquette_tensor::WeightFile;
use maquette_tensor::ops::Error;
use wasmtime::component::Resource;

use crate::bindings::TensorHandle;
use crate::bindings::maquette::model::{types, weights};
use crate::state::{HostError, State};

impl State {
    fn weight_file(&self, file: &str) -> Result<&Arc<WeightFile>, Error> {
        self.package.weights.get(file).ok_or_else(|| {
            let names: Vec<_> = self.package.weights.keys().map(String::as_str).collect();
            Error::unsupported(format!(
                "this version has no weight file `{file}`; it has: {}. Weight files are named in [weights] of maquette.toml",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            ))
        })
    }
}

impl weights::Host for State {
    fn files(&mut self) -> wasmtime::Result<Vec<String>> {
        self.crossings += 1;
        Ok(self.package.weights.keys().cloned().collect())
    }

    fn tensors(&mut self, file: String) -> Result<Vec<weights::TensorInfo>, HostError> {
        self.crossings += 1;
        let tensors = self.weight_file(&file)?.tensors().iter();
        let tensors = tensors.map(|info| weights::TensorInfo {
            name: info.name.clone(),
            stored: info.stored.clone(),
            shape: info.shape.to_vec(),
        });
        Ok(tensors.collect())
    }

    fn metadata(&mut self, file: String, key: String) -> Result<Option<String>, HostError> {
        self.crossings += 1;
        Ok(self.weight_file(&file)?.metadata(&key).map(str::to_owned))
    }

    fn get(
        &mut self,
        file: String,
        name: String,
        dtype: Option<types::Dtype>,
    ) -> Result<Resource<TensorHandle>, HostError> {
        self.enter("weights.get")?;
        let file = Arc::clone(self.weight_file(&file)?);
        let tensor = self.scope().weight(&file, &name, dtype.map(Into::into))?;
        Ok(self.hand_out(tensor)?)
    }
}

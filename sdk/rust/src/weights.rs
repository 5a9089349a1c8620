//! Weight files by name: tensors that are fetched, or bound to a program, when they are used.

use maquette_ops::{DType, Dim};

use crate::bindings::maquette::model::weights as host;
use crate::error::from_host;
use crate::shape::IntoShape;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A weight file, or a part of it under a prefix.
#[derive(Clone, Debug)]
pub struct Weights {
    file: String,
    prefix: String,
    dtype: DType,
}

impl Weights {
    /// A weight file by its name in `maquette.toml`, whether there is one or not: for programs that are recorded outside of a
    /// component, in tests. Models get theirs from [`Package::weights`](crate::Package::weights).
    pub fn of_file(file: &str) -> Self {
        Self::new(file)
    }

    pub(crate) fn new(file: &str) -> Self {
        Self {
            file: file.to_owned(),
            prefix: String::new(),
            dtype: DType::F32,
        }
    }

    /// The part of the file whose names start with `prefix.`.
    #[must_use]
    pub fn pp(&self, prefix: impl std::fmt::Display) -> Self {
        Self {
            file: self.file.clone(),
            prefix: format!("{}{prefix}.", self.prefix),
            dtype: self.dtype,
        }
    }

    /// The same file with tensors of another type; f32 unless asked for.
    #[must_use]
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }

    /// A tensor by name, of the shape that the model expects; the host checks it when the tensor is used.
    ///
    /// # Errors
    /// If the shape has symbols in it.
    pub fn get(&self, name: &str, shape: impl IntoShape) -> Result<Tensor> {
        let dims: Option<Vec<Dim>> = shape.into_shape().into_iter().collect();
        let dims = dims.filter(|dims| dims.iter().all(|dim| dim.as_constant().is_some()));
        let dims = dims.ok_or_else(|| Error::internal(format_args!("weight `{name}` needs a shape of numbers")))?;
        Ok(Tensor::weight(
            &self.file,
            format!("{}{name}", self.prefix),
            self.dtype,
            dims,
        ))
    }

    /// Names and shapes of the tensors under the prefix.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn list(&self) -> Result<Vec<(String, Vec<u32>)>> {
        let tensors = host::tensors(&self.file).map_err(from_host)?;
        let under = tensors
            .into_iter()
            .filter_map(|info| Some((info.name.strip_prefix(&self.prefix)?.to_owned(), info.shape)));
        Ok(under.collect())
    }

    /// Whether there is such a tensor.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn contains(&self, name: &str) -> Result<bool> {
        Ok(self.list()?.iter().any(|(listed, _)| listed == name))
    }

    /// An entry of the file's metadata.
    ///
    /// # Errors
    /// If there is no such file.
    pub fn metadata(&self, key: &str) -> Result<Option<String>> {
        host::metadata(&self.file, key).map_err(from_host)
    }
}

//! The host's side of the contract: one file for each interface in `wit/`.

mod assets;
mod files;
mod kv_cache;
mod programs;
mod run;
mod tensors;
mod weights;

use maquette_tensor::ops::{Attr, DType, Dim, Error};

use crate::bindings::maquette::model::types;

pub(crate) use tensors::link_uploads;

impl From<types::Dtype> for DType {
    fn from(dtype: types::Dtype) -> Self {
        match dtype {
            types::Dtype::F32 => Self::F32,
            types::Dtype::F16 => Self::F16,
            types::Dtype::Bf16 => Self::BF16,
            types::Dtype::U8 => Self::U8,
            types::Dtype::U32 => Self::U32,
            types::Dtype::I64 => Self::I64,
        }
    }
}

impl From<DType> for types::Dtype {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::Bf16,
            DType::U8 => Self::U8,
            DType::U32 => Self::U32,
            DType::I64 => Self::I64,
        }
    }
}

fn dim(terms: Vec<types::Term>) -> Result<Dim, Error> {
    Dim::from_terms(terms.into_iter().map(|term| (term.coefficient, term.symbols)))
}

fn dims(dims: Vec<Vec<types::Term>>) -> Result<Vec<Dim>, Error> {
    dims.into_iter().map(dim).collect()
}

fn attr(attr: types::Attr) -> Result<Attr, Error> {
    Ok(match attr {
        types::Attr::Unset => Attr::Unset,
        types::Attr::Flag(flag) => Attr::Flag(flag),
        types::Attr::Int(int) => Attr::Int(int),
        types::Attr::Float(float) => Attr::Float(float),
        types::Attr::Ints(ints) => Attr::Ints(ints),
        types::Attr::Dims(list) => Attr::Dims(dims(list)?),
        types::Attr::Dtype(dtype) => Attr::DType(dtype.into()),
    })
}

fn attrs(list: Vec<types::Attr>) -> Result<Vec<Attr>, Error> {
    list.into_iter().map(attr).collect()
}

/// The refusal when a sandbox holds too many objects of a kind.
fn too_many(what: &str) -> Error {
    Error::quota(format!(
        "a sandbox may hold at most {} {what}: drop those no longer used",
        crate::slab::MAX_LIVE
    ))
}

/// A handle that wasmtime accepted but that stands for nothing: a bug of the host, so the sandbox ends.
fn stale(what: &str) -> wasmtime::Error {
    wasmtime::format_err!("the host lost a {what} that the guest still holds")
}

//! One way for every op: recorded while a program is being recorded, run by the host at once otherwise.

use std::cell::RefCell;
use std::panic::Location;

use maquette_ops::{Attr, Dim, Op};

use crate::bindings::maquette::model::{tensors, types};
use crate::error::{from_host, from_ops};
use crate::record;
use crate::tensor::Tensor;
use crate::{Error, Result};

thread_local! {
    /// Numbers of ops in this host, by their place in our table; looked up on first use. `load` applies no op eagerly, so a
    /// snapshot never holds numbers of another host.
    static RESOLVED: RefCell<Vec<Option<u32>>> = const { RefCell::new(Vec::new()) };
}

fn spec(op: Op) -> &'static maquette_ops::OpSpec {
    &maquette_ops::table()[op as usize]
}

fn resolve(op: Op) -> Result<u32> {
    RESOLVED.with_borrow_mut(|resolved| {
        let at = op as usize;
        if resolved.len() <= at {
            resolved.resize(maquette_ops::table().len(), None);
        }
        if let Some(number) = resolved[at] {
            return Ok(number);
        }
        let number = tensors::resolve(spec(op).name).map_err(from_host)?;
        resolved[at] = Some(number);
        Ok(number)
    })
}

/// Applies any op of the table (`maquette ops`) by its attributes in the table's order: for those that [`Tensor`] has no method for.
///
/// # Errors
/// As the table says of the op.
#[track_caller]
pub fn apply(op: Op, inputs: &[&Tensor], attrs: Vec<Attr>) -> Result<Tensor> {
    let caller = Location::caller();
    if let Some(result) = record::apply(spec(op), inputs, &attrs, caller) {
        return result;
    }
    let number = resolve(op)?;
    let attrs = attrs.into_iter().map(to_host).collect::<Result<Vec<_>>>()?;
    let output = match inputs {
        [a] => tensors::apply(number, &[a.handle()?], &attrs),
        [a, b] => tensors::apply(number, &[a.handle()?, b.handle()?], &attrs),
        many => {
            let handles = many.iter().map(|tensor| tensor.handle()).collect::<Result<Vec<_>>>()?;
            tensors::apply(number, &handles, &attrs)
        }
    };
    output.map(Tensor::eager).map_err(|error| {
        let error = from_host(error);
        Error::new(
            error.code(),
            format_args!("{} (at {}:{})", error.message(), caller.file(), caller.line()),
        )
    })
}

/// An attribute as it crosses the boundary outside of a program.
fn to_host(attr: Attr) -> Result<types::Attr> {
    Ok(match attr {
        Attr::Unset => types::Attr::Unset,
        Attr::Flag(flag) => types::Attr::Flag(flag),
        Attr::Int(int) => types::Attr::Int(int),
        Attr::Float(float) => types::Attr::Float(float),
        Attr::Ints(ints) => types::Attr::Ints(ints),
        Attr::Dims(dims) => types::Attr::Ints(dims.iter().map(number).collect::<Result<_>>()?),
        Attr::DType(dtype) => types::Attr::Dtype(dtype_to_host(dtype)),
    })
}

/// An attribute as it crosses the boundary inside a program.
pub(crate) fn attr_in_program(attr: &Attr) -> types::Attr {
    match attr {
        Attr::Unset => types::Attr::Unset,
        Attr::Flag(flag) => types::Attr::Flag(*flag),
        Attr::Int(int) => types::Attr::Int(*int),
        Attr::Float(float) => types::Attr::Float(*float),
        Attr::Ints(ints) => types::Attr::Ints(ints.clone()),
        Attr::Dims(dims) => types::Attr::Dims(dims.iter().map(dim_to_host).collect()),
        Attr::DType(dtype) => types::Attr::Dtype(dtype_to_host(*dtype)),
    }
}

pub(crate) fn dim_to_host(dim: &Dim) -> types::Dim {
    let terms = dim.terms().iter();
    terms
        .map(|(coefficient, symbols)| types::Term {
            coefficient: *coefficient,
            symbols: symbols.clone(),
        })
        .collect()
}

fn number(dim: &Dim) -> Result<i64> {
    let value = dim.as_constant().and_then(|value| i64::try_from(value).ok());
    value.ok_or_else(|| {
        Error::internal(format_args!(
            "dimension {dim} has symbols, which exist only while recording"
        ))
    })
}

pub(crate) fn dtype_to_host(dtype: maquette_ops::DType) -> types::Dtype {
    use maquette_ops::DType;
    match dtype {
        DType::F32 => types::Dtype::F32,
        DType::F16 => types::Dtype::F16,
        DType::BF16 => types::Dtype::Bf16,
        DType::U8 => types::Dtype::U8,
        DType::U32 => types::Dtype::U32,
        DType::I64 => types::Dtype::I64,
    }
}

pub(crate) fn dtype_from_host(dtype: types::Dtype) -> maquette_ops::DType {
    use maquette_ops::DType;
    match dtype {
        types::Dtype::F32 => DType::F32,
        types::Dtype::F16 => DType::F16,
        types::Dtype::Bf16 => DType::BF16,
        types::Dtype::U8 => DType::U8,
        types::Dtype::U32 => DType::U32,
        types::Dtype::I64 => DType::I64,
    }
}

/// An error of our own rules.
pub(crate) fn ours(error: maquette_ops::Error) -> Error {
    from_ops(error)
}

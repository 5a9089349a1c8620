//! Shapes, attributes and inputs as ops take them.

use maquette_ops::{Attr, Dim, Op};

use super::Tensor;
use crate::ops::apply;
use crate::shape::{IntoDim, IntoShape};
use crate::{Error, Result};

pub(super) fn ints(values: &[usize]) -> Attr {
    Attr::Ints(values.iter().map(|value| whole(*value)).collect())
}

pub(super) fn int(value: usize) -> Attr {
    Attr::Int(whole(value))
}

/// What is too large for an attribute is too large for every op, too.
fn whole(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// One dimension, which must be given.
pub(super) fn size(size: impl IntoDim) -> Result<Attr> {
    fill(vec![size.into_dim()], None).map(Attr::Dims)
}

/// A shape, which must be given whole.
pub(super) fn shape(shape: impl IntoShape) -> Result<Attr> {
    fill(shape.into_shape(), None).map(Attr::Dims)
}

/// Applies an op whose last inputs may be missing.
#[track_caller]
pub(super) fn with_optional(op: Op, first: &[&Tensor], more: &[Option<&Tensor>], attrs: Vec<Attr>) -> Result<Tensor> {
    let mut inputs = first.to_vec();
    inputs.extend(more.iter().map_while(|input| *input));
    if inputs.len() < first.len() + more.iter().flatten().count() {
        let spec = &maquette_ops::table()[op as usize];
        return Err(Error::invalid_input(format_args!(
            "an input after a missing one cannot be given; it is {}",
            spec.signature()
        )));
    }
    apply(op, &inputs, attrs)
}

/// Dimensions with what is left filled in.
pub(super) fn fill(shape: Vec<Option<Dim>>, elements: Option<&Dim>) -> Result<Vec<Dim>> {
    let known = || {
        shape
            .iter()
            .flatten()
            .fold(Dim::from(1_usize), |product, dim| &product * dim)
    };
    let holes = shape.iter().filter(|dim| dim.is_none()).count();
    let rest = match (holes, elements) {
        (0, _) => None,
        (1, Some(elements)) => {
            let known = known();
            Some(elements.try_div(&known).ok_or_else(|| {
                Error::new(
                    maquette_ops::Code::Shape,
                    format_args!("{elements} elements do not divide by {known}"),
                )
            })?)
        }
        (1, None) => {
            return Err(Error::internal(
                "`()` stands for what is left, but nothing is given here",
            ));
        }
        _ => return Err(Error::internal("`()` may stand for one dimension only")),
    };
    Ok(shape
        .into_iter()
        .map(|dim| dim.unwrap_or_else(|| rest.clone().unwrap_or_default()))
        .collect())
}

//! Shape rules that take more than a line: reductions, reshapes, broadcasts, matrix products.

use super::{Rule, dimension};
use crate::MAX_RANK;
use crate::error::Error;
use crate::extent::Extent;
use crate::table::Op;
use crate::types::{Attr, Shape, Type, check_shape, show};

impl<E: Extent> Rule<'_, E> {
    pub(super) fn reduce(&self) -> Result<Type<E>, Error> {
        let mut axes = self.axes(0)?;
        if axes.is_empty() {
            axes = (0..self.rank()).collect();
        }
        if matches!(self.spec.op, Op::Max | Op::Min) {
            for axis in &axes {
                self.not_empty(*axis)?;
            }
        }
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape: self.without(&axes, self.flag(1)?),
        })
    }

    pub(super) fn not_empty(&self, axis: usize) -> Result<(), Error> {
        match self.inputs[0].shape[axis].known() {
            Some(0) => Err(Error::shape(format!("dimension {axis} is empty"))),
            _ => Ok(()),
        }
    }

    /// The first input's shape with axes taken away, or made 1.
    pub(super) fn without(&self, axes: &[usize], keep: bool) -> Shape<E> {
        let dims = self.inputs[0].shape.iter().enumerate();
        let one = E::of(1).ok();
        dims.filter_map(|(i, dim)| match (axes.contains(&i), keep) {
            (false, _) => Some(dim.clone()),
            (true, true) => one.clone(),
            (true, false) => None,
        })
        .collect()
    }

    pub(super) fn room_for_one_more(&self) -> Result<(), Error> {
        if self.rank() < MAX_RANK {
            return Ok(());
        }
        Err(Error::shape(format!(
            "the output would have more than {MAX_RANK} dimensions"
        )))
    }

    pub(super) fn reshape(&self) -> Result<Type<E>, Error> {
        let input = &self.inputs[0].shape;
        let mut wildcard = None;
        let shape: Shape<E> = match self.attrs.first() {
            Some(Attr::Ints(ints)) => {
                if ints.len() > MAX_RANK {
                    return Err(Error::shape(format!(
                        "{} dimensions; at most {MAX_RANK} are allowed",
                        ints.len()
                    )));
                }
                let mut shape = Shape::new();
                for (i, int) in ints.iter().enumerate() {
                    if *int == -1 && wildcard.replace(i).is_some() {
                        return Err(Error::shape("only one dimension may be -1"));
                    }
                    shape.push(if *int == -1 { E::of(1)? } else { dimension(*int)? });
                }
                shape
            }
            _ => self.shape(0)?,
        };
        check_shape(&shape)?;
        let (have, want) = (product(input)?, product(&shape)?);
        let mut shape = shape;
        if let Some(at) = wildcard {
            shape[at] = match have.over(&want) {
                Some(left) if want.known() != Some(0) => left,
                _ => {
                    return Err(Error::shape(format!(
                        "{have} elements do not divide into {}",
                        self.shown_shape()
                    )));
                }
            };
        } else if have != want {
            return Err(Error::shape(format!(
                "{have} elements do not fit {}, which takes {want}",
                show(&shape)
            )));
        }
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape,
        })
    }

    fn shown_shape(&self) -> String {
        match self.attrs.first() {
            Some(Attr::Ints(ints)) => show(ints),
            Some(Attr::Dims(dims)) => show(dims),
            _ => String::new(),
        }
    }

    pub(super) fn broadcast_to(&self) -> Result<Type<E>, Error> {
        let (input, target) = (&self.inputs[0].shape, self.shape(0)?);
        let fail = || {
            Error::shape(format!(
                "it does not broadcast to {}: only dimensions of 1 repeat",
                show(&target)
            ))
        };
        let added = target.len().checked_sub(input.len()).ok_or_else(fail)?;
        for (have, want) in input.iter().zip(&target[added..]) {
            if have != want && have.known() != Some(1) {
                return Err(fail());
            }
        }
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape: target,
        })
    }

    pub(super) fn cat(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let axis = self.axis(0, self.rank())?;
        let mut output = self.same();
        for other in &self.inputs[1..] {
            let agree = other.shape.len() == output.shape.len()
                && other
                    .shape
                    .iter()
                    .zip(&output.shape)
                    .enumerate()
                    .all(|(i, (a, b))| i == axis || a == b);
            if !agree {
                return Err(Error::shape(format!("all but dimension {axis} must agree")));
            }
            output.shape[axis] = output.shape[axis].plus(&other.shape[axis])?;
        }
        Ok(output)
    }

    pub(super) fn matmul(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let (a, b) = (&self.inputs[0].shape, &self.inputs[1].shape);
        let ([left @ .., m, k], [right @ .., k2, n]) = (a.as_slice(), b.as_slice()) else {
            return Err(Error::shape("both must have at least two dimensions: use unsqueeze/1"));
        };
        if k != k2 {
            return Err(Error::shape(format!("{k} columns of a do not meet {k2} rows of b")));
        }
        let mut shape = broadcast(left, right)?;
        shape.push(m.clone());
        shape.push(n.clone());
        Ok(Type {
            dtype: self.inputs[0].dtype,
            shape,
        })
    }

    pub(super) fn linear(&self) -> Result<Type<E>, Error> {
        self.same_dtype()?;
        let [output, input] = self.inputs[1].shape.as_slice() else {
            return Err(Error::shape("the weight must have two dimensions, out and in"));
        };
        if self.inputs[0].shape.last() != Some(input) {
            return Err(Error::shape(format!(
                "the last dimension of x must be {input}, the weight's second"
            )));
        }
        if let Some(bias) = self.inputs.get(2)
            && bias.shape.as_slice() != std::slice::from_ref(output)
        {
            return Err(Error::shape(format!(
                "the bias must have shape [{output}], the weight's first dimension"
            )));
        }
        let mut result = self.same();
        if let Some(last) = result.shape.last_mut() {
            *last = output.clone();
        }
        Ok(result)
    }
}

/// Two shapes made one: dimensions of 1, and missing ones on the left, repeat.
///
/// # Errors
/// `shape` if two dimensions differ and neither is 1.
pub fn broadcast<E: Extent>(a: &[E], b: &[E]) -> Result<Shape<E>, Error> {
    let rank = a.len().max(b.len());
    let mut shape = Shape::with_capacity(rank);
    for i in 0..rank {
        let left = (i + a.len()).checked_sub(rank).map(|i| &a[i]);
        let right = (i + b.len()).checked_sub(rank).map(|i| &b[i]);
        shape.push(match (left, right) {
            (Some(left), Some(right)) if left == right || right.known() == Some(1) => left.clone(),
            (Some(left), Some(right)) if left.known() == Some(1) => right.clone(),
            (Some(left), Some(right)) => {
                return Err(Error::shape(format!(
                    "{} and {} do not broadcast: {left} meets {right}, and neither is 1",
                    show(a),
                    show(b)
                )));
            }
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => continue,
        });
    }
    Ok(shape)
}

fn product<E: Extent>(shape: &[E]) -> Result<E, Error> {
    // Zero wins over an overflow elsewhere.
    if shape.iter().any(|dim| dim.known() == Some(0)) {
        return E::of(0);
    }
    shape.iter().try_fold(E::of(1)?, |product, dim| product.times(dim))
}

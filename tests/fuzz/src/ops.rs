//! The op table, eagerly: any op on any tensors with any attributes, some of them on what others made.

use arbitrary::{Result, Unstructured};
use maquette_tensor::ops::{Attr, Dim, Occurs, OpId};
use maquette_tensor::{Scope, Tensor};

use crate::tensors::{answered, attrs, dim, dtype, elements, op, scope, shape};

/// Steps of one input.
const MAX_STEPS: usize = 24;

pub(crate) fn run(data: &[u8]) {
    let (scope, budget) = scope();
    let mut tensors = Vec::new();
    let mut u = Unstructured::new(data);
    for _ in 0..MAX_STEPS {
        if u.is_empty() || step(&scope, &mut tensors, &mut u).is_err() {
            break;
        }
        assert!(budget.used() <= budget.limit());
    }
    drop(tensors);
    assert_eq!(budget.used(), 0, "what is gone is still paid for");
}

fn step(scope: &Scope, tensors: &mut Vec<Tensor>, u: &mut Unstructured<'_>) -> Result<()> {
    let made = match u.int_in_range(0..=15)? {
        0..=3 => upload(scope, u)?,
        4 => {
            if let Some(tensor) = pick(tensors, u)? {
                let (start, count) = (dim(u)?, dim(u)?);
                if let Some(bytes) = answered(scope.read_range(tensor, start.into(), count.into())) {
                    assert_eq!(bytes.len() as u64, u64::from(count) * tensor.dtype().size() as u64);
                }
            }
            None
        }
        5 => {
            if !tensors.is_empty() {
                let at = u.choose_index(tensors.len())?;
                drop(tensors.swap_remove(at));
            }
            None
        }
        _ => apply(scope, tensors, u)?,
    };
    tensors.extend(made);
    Ok(())
}

fn upload(scope: &Scope, u: &mut Unstructured<'_>) -> Result<Option<Tensor>> {
    let (dtype, shape) = (dtype(u)?, shape(u)?);
    let bytes = match elements(dtype, &shape, u)? {
        Some(bytes) => bytes,
        None => u.arbitrary()?,
    };
    Ok(answered(scope.from_bytes(dtype, &shape, &bytes)))
}

fn pick<'a>(tensors: &'a [Tensor], u: &mut Unstructured<'_>) -> Result<Option<&'a Tensor>> {
    if tensors.is_empty() {
        return Ok(None);
    }
    // Later ones are more interesting.
    let back = u.choose_index(tensors.len().min(8))?;
    Ok(tensors.get(tensors.len() - 1 - back))
}

fn apply(scope: &Scope, tensors: &[Tensor], u: &mut Unstructured<'_>) -> Result<Option<Tensor>> {
    let (number, spec) = op(u)?;
    let mut inputs = Vec::new();
    for input in spec.inputs {
        let times = match input.occurs {
            Occurs::Once => 1,
            Occurs::Optional => u.int_in_range(0..=1)?,
            Occurs::Repeated => u.int_in_range(0..=3)?,
        };
        for _ in 0..times {
            inputs.extend(pick(tensors, u)?);
        }
    }
    if u.ratio(1, 64)? {
        inputs.extend(pick(tensors, u)?);
    }
    let attrs: Vec<Attr> = attrs(
        spec,
        &mut |u| {
            Ok(if u.ratio(1, 64)? {
                Dim::symbol(0)
            } else {
                Dim::from(dim(u)?)
            })
        },
        u,
    )?;
    let number = if u.ratio(1, 128)? { u.arbitrary()? } else { number };
    let Some(made) = answered(scope.apply(OpId(number), &inputs, &attrs)) else {
        return Ok(None);
    };
    if let Some(bytes) = answered(scope.read(&made)) {
        assert_eq!(bytes.len() as u64, made.bytes(), "{}", spec.name);
    }
    Ok(Some(made))
}

//! Indices are proven before a kernel sees them: on a GPU one that is out of range ends the context for every call.

use candle_core::{DType as Candle, Tensor};
use maquette_ops::{Error, Op, attr_axis, attr_dtype, attr_float, normalise};

use super::call::{Call, Result};
use super::slot::Range;

/// Checks that every id is below a number of rows: by what is known of them, else by asking the device, which waits for it.
pub(super) fn check(ids: &Tensor, known: Range, rows: usize) -> Result<()> {
    let fits =
        |(least, largest): (i64, i64)| least >= 0 && usize::try_from(largest).is_ok_and(|largest| largest < rows);
    // What is known are bounds: a part of a tensor may hold less than the whole did.
    if known.is_some_and(fits) {
        return Ok(());
    }
    match range(ids)? {
        Some((least, largest)) if !fits((least, largest)) => {
            let wrong = if least < 0 { least } else { largest };
            Err(Error::invalid_input(format!("id {wrong} is not below {rows}")).into())
        }
        _ => Ok(()),
    }
}

/// Checks that no divisor is 0.
pub(super) fn nonzero(divisors: &Tensor, known: Range) -> Result<()> {
    if divisors.elem_count() == 0 || known.is_some_and(|(least, largest)| least > 0 || largest < 0) {
        return Ok(());
    }
    let dense = divisors.contiguous()?.flatten_all()?;
    let zeros = dense.eq(&dense.zeros_like()?)?;
    if zeros.max(0)?.to_scalar::<u8>()? != 0 {
        return Err(Error::invalid_input("a divisor is 0").into());
    }
    Ok(())
}

/// The least and the largest id; none if there are no ids.
fn range(ids: &Tensor) -> Result<Range> {
    if ids.elem_count() == 0 {
        return Ok(None);
    }
    let dense = ids.contiguous()?.flatten_all()?;
    Ok(Some(match dense.dtype() {
        Candle::I64 => (dense.min(0)?.to_scalar::<i64>()?, dense.max(0)?.to_scalar::<i64>()?),
        Candle::U32 => (0, i64::from(dense.max(0)?.to_scalar::<u32>()?)),
        Candle::U8 => (0, i64::from(dense.max(0)?.to_scalar::<u8>()?)),
        _ => return Err(Error::internal("ids that are not integers").into()),
    }))
}

/// The least and the largest of integers that a lane uploads.
pub(crate) fn of_bytes(dtype: maquette_ops::DType, bytes: &[u8]) -> Range {
    use maquette_ops::DType;
    fn ends(values: impl Iterator<Item = i64>) -> Range {
        values.fold(None, |range, value| {
            let (least, largest) = range.unwrap_or((value, value));
            Some((value.min(least), value.max(largest)))
        })
    }
    match dtype {
        DType::U8 => ends(bytes.iter().map(|byte| i64::from(*byte))),
        DType::U32 => ends(
            bytes
                .as_chunks()
                .0
                .iter()
                .map(|word| i64::from(u32::from_le_bytes(*word))),
        ),
        DType::I64 => ends(bytes.as_chunks().0.iter().map(|word| i64::from_le_bytes(*word))),
        DType::F32 | DType::F16 | DType::BF16 => None,
    }
}

/// What is known of an op's integers without looking at them.
pub(super) fn of_output(call: &Call<'_>) -> Range {
    if !call.out.dtype.is_int() || call.out.elements() == 0 {
        return None;
    }
    match call.spec.op {
        Op::Reshape | Op::Transpose | Op::Permute | Op::Narrow | Op::BroadcastTo | Op::Squeeze | Op::Unsqueeze => {
            call.range(0)
        }
        Op::Flip | Op::Roll | Op::Repeat | Op::RepeatInterleave | Op::Gather | Op::IndexSelect | Op::Embedding => {
            call.range(0)
        }
        Op::Argmax | Op::Argmin => {
            let x = call.input(0).ok()?;
            let axis = attr_axis(call.spec, call.attrs, 0).and_then(|axis| normalise(axis, x.rank()).ok())?;
            Some((0, i64::try_from(x.dims()[axis]).ok()? - 1))
        }
        Op::Sample => {
            let vocabulary = call.input(0).ok()?.dims().last().copied()?;
            Some((0, i64::try_from(vocabulary).ok()? - 1))
        }
        Op::Eq | Op::Ne | Op::Lt | Op::Le | Op::Gt | Op::Ge | Op::OneHot => Some((0, 1)),
        Op::Arange if attr_dtype(call.spec, call.attrs, 3)? == maquette_ops::DType::I64 => {
            let (start, step) = (
                attr_float(call.spec, call.attrs, 1)?,
                attr_float(call.spec, call.attrs, 2)?,
            );
            let last = f64::from(*call.out.shape.first()? - 1).mul_add(step, start);
            // Casts saturate as those of the values do.
            Some((start.min(last) as i64, start.max(last) as i64))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;
    use maquette_ops::DType;

    fn refused(ids: &Tensor, rows: usize) -> bool {
        let looked = check(ids, None, rows).is_err();
        let known = range(ids).unwrap();
        assert_eq!(
            check(ids, known, rows).is_err(),
            looked,
            "what is known and what is found agree"
        );
        looked
    }

    #[test]
    fn an_id_out_of_range_is_found_in_every_dtype_and_layout() {
        let device = &Device::Cpu;
        let ids = Tensor::new(&[[0_u32, 1], [2, 9]], device).unwrap();
        assert!(refused(&ids, 9) && !refused(&ids, 10));
        assert!(!refused(&ids.narrow(1, 0, 1).unwrap(), 3) && refused(&ids.t().unwrap(), 3));
        let ids = Tensor::new(&[3_i64, -1, 2], device).unwrap();
        assert!(refused(&ids, 4) && !refused(&ids.narrow(0, 0, 1).unwrap(), 4));
        assert!(refused(&Tensor::new(&[i64::MAX, 0], device).unwrap(), usize::MAX >> 2));
        assert!(refused(&Tensor::new(&[u32::MAX], device).unwrap(), u32::MAX as usize));
        assert!(refused(&Tensor::new(&[255_u8], device).unwrap(), 255));
        assert!(refused(&Tensor::new(&[0_u8], device).unwrap(), 0));
        assert!(!refused(&Tensor::zeros(0, Candle::U32, device).unwrap(), 0));
    }

    #[test]
    fn the_range_of_uploaded_bytes_is_that_of_their_values() {
        assert_eq!(of_bytes(DType::U8, &[3, 200, 7]), Some((3, 200)));
        assert_eq!(of_bytes(DType::I64, bytemuck::cast_slice(&[5_i64, -2])), Some((-2, 5)));
        assert_eq!(
            of_bytes(DType::U32, bytemuck::cast_slice(&[u32::MAX])),
            Some((4_294_967_295, 4_294_967_295))
        );
        assert_eq!(of_bytes(DType::U32, &[]), None);
        assert_eq!(of_bytes(DType::F32, &[0; 8]), None);
    }
}

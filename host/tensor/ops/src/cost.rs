//! What an op costs on a CPU: work, and the bytes that it takes before it gives any back. Budgets, plans and quotes read it, so it
//! speaks of what the implementations in maquette-tensor do; a test there holds it against a counting allocator.

mod sequence;
mod vision;

use crate::PIECE;
use crate::attrs::{attr_axis, normalise};
use crate::dtype::DType;
use crate::table::{Op, OpSpec};
use crate::types::{Attr, Shape, Type, elements};

/// How a tensor lies in memory, as far as an op cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Row-major, without gaps.
    Dense,
    /// The last two dimensions of a dense tensor exchanged: a matrix product takes it as it is.
    Transposed,
    /// Anything else: a part, a permutation, a broadcast.
    Strided,
}

impl Form {
    /// The form of a tensor with these dimensions and strides, counted in elements.
    #[inline]
    pub fn of(shape: &[u32], strides: &[usize]) -> Self {
        let mut plain = true;
        let mut expected = 1;
        for (dim, stride) in shape.iter().zip(strides).rev() {
            plain &= *dim == 1 || *stride == expected;
            expected *= (*dim).max(1) as usize;
        }
        if plain {
            return Self::Dense;
        }
        let ([batch @ .., rows, columns], [outer @ .., down, across]) = (shape, strides) else {
            return Self::Strided;
        };
        let mut expected = (*rows as usize) * (*columns as usize);
        let mut plain = (*rows == 1 || *down == 1) && (*columns == 1 || *across == *rows as usize);
        for (dim, stride) in batch.iter().zip(outer).rev() {
            plain &= *dim == 1 || *stride == expected;
            expected *= (*dim).max(1) as usize;
        }
        if plain { Self::Transposed } else { Self::Strided }
    }
}

/// An input as its cost depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Operand<'a> {
    /// Its type.
    pub ty: &'a Type<u32>,
    /// How it lies in memory.
    pub form: Form,
}

/// What an op costs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Floating-point operations, a multiply-add counted as two, a function such as `exp` as ten.
    pub flops: u64,
    /// Whether the output lies in the first input's memory.
    pub shares: bool,
    /// Bytes of memory that the output takes for itself; 0 if it shares its input's.
    pub output_bytes: u64,
    /// Bytes of temporaries at most, beside the output.
    pub temporary_bytes: u64,
}

impl OpSpec {
    /// Whether the output lies in the first input's memory.
    #[inline]
    fn shares(&self, inputs: &[Operand<'_>], output: &Type<u32>) -> bool {
        let Some(first) = inputs.first() else { return false };
        match self.op {
            _ if self.is_view() => true,
            Op::Reshape => first.form == Form::Dense,
            Op::Cast => first.ty.dtype == output.dtype,
            Op::Cat | Op::Stack => inputs.len() == 1,
            Op::Pad => first.ty.shape == output.shape,
            Op::Max | Op::Min => first.ty.shape.is_empty(),
            _ => false,
        }
    }

    /// What the op costs for these inputs, whose output type is known.
    #[inline]
    pub fn cost(&self, inputs: &[Operand<'_>], attrs: &[Attr], output: &Type<u32>) -> Cost {
        let mut cost = self.whole(inputs, attrs, output);
        // What is large is computed piece by piece, and each piece, of up to twice as many elements of up to 8 bytes, is there twice
        // until it is in its place.
        let large = |ty: &Type<u32>| ty.elements() > 2 * PIECE as u64;
        if !cost.shares && (large(output) || inputs.iter().any(|input| large(input.ty))) {
            cost.temporary_bytes = cost.temporary_bytes.saturating_add(4 * PIECE as u64 * 8);
        }
        cost
    }

    fn whole(&self, inputs: &[Operand<'_>], attrs: &[Attr], output: &Type<u32>) -> Cost {
        let shares = self.shares(inputs, output);
        let output_bytes = match self.op {
            _ if shares => 0,
            // One element, seen everywhere.
            Op::Full => output.dtype.size() as u64,
            _ => output.bytes(),
        };
        if shares || output.elements() == 0 {
            return Cost {
                flops: 0,
                shares,
                output_bytes,
                temporary_bytes: 0,
            };
        }
        if let Some((flops, temporary_bytes)) = self.sequence_cost(inputs, attrs, output) {
            return Cost {
                flops,
                shares,
                output_bytes,
                temporary_bytes,
            };
        }
        Cost {
            flops: self.flops(inputs, attrs, output),
            shares,
            output_bytes,
            temporary_bytes: self.temporaries(inputs, attrs, output),
        }
    }

    fn flops(&self, inputs: &[Operand<'_>], attrs: &[Attr], output: &Type<u32>) -> u64 {
        let out = output.elements();
        let input = || {
            inputs
                .iter()
                .map(|input| input.ty.elements())
                .fold(0, u64::saturating_add)
        };
        let each = match self.op {
            Op::Matmul | Op::Linear => {
                let depth = inputs.first().and_then(|a| a.ty.shape.last());
                return out.saturating_mul(depth.map_or(0, |k| u64::from(*k))).saturating_mul(2);
            }
            Op::Attention | Op::CachedAttention => {
                let (Some(q), Some(k)) = (inputs.first(), inputs.get(1)) else {
                    return 0;
                };
                let keys = k.ty.shape.get(1).map_or(0, |keys| u64::from(*keys));
                let products = q.ty.elements().saturating_add(out).saturating_mul(2);
                return products.saturating_mul(keys);
            }
            Op::Sum | Op::Mean | Op::Max | Op::Min | Op::Argmax | Op::Argmin => return input(),
            Op::Reshape | Op::Cat | Op::Stack | Op::Pad | Op::Full | Op::Embedding | Op::IndexSelect => 0,
            Op::Softmax | Op::LogSoftmax => 14,
            Op::LayerNorm | Op::RmsNorm => 8,
            Op::Rope => 3,
            Op::Affine | Op::Clamp | Op::Rsqrt | Op::Arange => 2,
            Op::Exp | Op::Log | Op::Sin | Op::Cos | Op::Tanh | Op::Powf => 10,
            Op::Sigmoid | Op::Silu | Op::Gelu => 14,
            Op::GeluErf | Op::Erf => 25,
            op if vision::is_one(op) => return vision::flops(self, inputs, attrs, output),
            _ => 1,
        };
        out.saturating_mul(each)
    }

    fn temporaries(&self, inputs: &[Operand<'_>], attrs: &[Attr], output: &Type<u32>) -> u64 {
        let out = output.elements();
        let half = matches!(output.dtype, DType::F16 | DType::BF16);
        // A copy in row-major order. Reductions make one too: that is faster, and a tensor that a broadcast has made large costs
        // then what it seems to, instead of hours for no memory.
        let copy = |input: &Operand<'_>| if input.form == Form::Dense { 0 } else { input.ty.bytes() };
        // The same values as f32.
        let widened = |input: &Operand<'_>| input.ty.elements().saturating_mul(4);
        let all = |bytes: &dyn Fn(&Operand<'_>) -> u64| inputs.iter().map(bytes).fold(0, u64::saturating_add);
        let first = inputs.first();
        match self.op {
            Op::Rsqrt | Op::Clamp => output.bytes(),
            Op::Sum | Op::Mean => {
                let scaled = if self.op == Op::Mean {
                    out.saturating_mul(8)
                } else {
                    out.saturating_mul(4)
                };
                match first {
                    Some(x) if half => widened(x).saturating_add(scaled),
                    _ => scaled.saturating_add(all(&copy)),
                }
            }
            // One dimension after the other.
            Op::Max | Op::Min => first
                .map_or(0, |x| if x.ty.shape.len() > 1 { x.ty.bytes() } else { 0 })
                .saturating_add(all(&copy)),
            Op::Argmax | Op::Argmin => all(&copy),
            Op::Cat | Op::Stack => all(&copy),
            Op::Pad => output.bytes().saturating_add(all(&copy)),
            Op::Matmul => self.product_temporaries(inputs, output),
            Op::Linear => {
                let copies = inputs.iter().enumerate().map(|(i, input)| match input.form {
                    _ if input.ty.dtype == DType::BF16 => widened(input),
                    Form::Dense => 0,
                    Form::Transposed if i == 1 => 0,
                    _ => input.ty.bytes(),
                });
                let product = match output.dtype {
                    DType::BF16 => out.saturating_mul(8),
                    DType::F16 => output.bytes(),
                    _ => 0,
                };
                copies.fold(product, u64::saturating_add)
            }
            Op::IndexSelect | Op::GeluErf | Op::Erf => all(&copy),
            Op::Softmax | Op::LogSoftmax => {
                let Some(x) = first else { return 0 };
                let rank = x.ty.shape.len();
                let axis = attr_axis(self, attrs, 0).and_then(|axis| normalise(axis, rank).ok());
                let wide = out.saturating_mul(4);
                match (axis == Some(rank.saturating_sub(1)), half) {
                    (true, false) => copy(x),
                    (true, true) => wide.saturating_mul(2),
                    // Turned, and turned back.
                    (false, _) => wide.saturating_mul(3),
                }
            }
            Op::LayerNorm | Op::RmsNorm => {
                let params = inputs.iter().skip(1).map(widened).fold(0, u64::saturating_add);
                // An absent bias is made of zeros.
                let params = params.saturating_mul(2);
                match first {
                    Some(_) if half => out.saturating_mul(12).saturating_add(params),
                    Some(x) => copy(x).saturating_add(params),
                    None => 0,
                }
            }
            // The angles' cosines and sines, in pieces; half floats widened, and the output before it is narrowed.
            Op::Rope => {
                let (rows, width) = match output.shape.as_slice() {
                    [b, t, _, width] => (u64::from(*b).saturating_mul(u64::from(*t)), u64::from(*width)),
                    _ => (0, 0),
                };
                let angles = rows
                    .saturating_mul(width)
                    .saturating_mul(4)
                    .saturating_add(width.saturating_mul(8));
                let positions = inputs
                    .get(1)
                    .map_or(0, |positions| positions.ty.elements().saturating_mul(8));
                let wide = if half { out.saturating_mul(8) } else { all(&copy) };
                angles.saturating_add(positions).saturating_add(wide)
            }
            // Strided vectors are read where they are, but for those whose elements do not lie side by side.
            Op::Attention | Op::CachedAttention => {
                let wide = inputs.iter().map(widened).fold(0, u64::saturating_add);
                match half {
                    true => wide.saturating_mul(2).saturating_add(out.saturating_mul(4)),
                    false => all(&copy),
                }
                .saturating_add(attention_state(inputs))
            }
            op if vision::is_one(op) => vision::temporaries(self, inputs, output),
            Op::Arange if half => out.saturating_mul(4),
            _ => 0,
        }
    }

    /// A matrix product copies operands whose batch repeats, and those whose layout it cannot take; bf16 is widened.
    fn product_temporaries(&self, inputs: &[Operand<'_>], output: &Type<u32>) -> u64 {
        let [a, b] = inputs else { return 0 };
        let batch = |x: &Operand<'_>| -> Shape<u32> { x.ty.shape[..x.ty.shape.len().saturating_sub(2)].into() };
        let whole = elements(&output.shape[..output.shape.len().saturating_sub(2)]);
        let wide = output.dtype == DType::BF16;
        let size = if wide { 4 } else { output.dtype.size() as u64 };
        let matched = batch(a) == batch(b);
        // Many matrices by one: the rows of all of them are one matrix.
        let stacked = b.ty.shape.len() == 2;
        let operand = |x: &Operand<'_>, transposed: bool| {
            let count = x.ty.elements();
            let fits = x.form == Form::Dense || (transposed && x.form == Form::Transposed);
            let copied = if fits { 0 } else { count.saturating_mul(size) };
            let own = elements(&batch(x));
            let repeated = if matched || stacked || own == whole {
                0
            } else {
                count.saturating_mul(size).saturating_mul(whole / own.max(1))
            };
            let widened = if wide { count.saturating_mul(4) } else { 0 };
            widened.saturating_add(copied).saturating_add(repeated)
        };
        let narrowed = if wide { output.elements().saturating_mul(4) } else { 0 };
        operand(a, matched)
            .saturating_add(operand(b, matched || stacked))
            .saturating_add(narrowed)
    }
}

/// What attention keeps of each query while it goes over the keys, and the list of a cache's pages.
fn attention_state(inputs: &[Operand<'_>]) -> u64 {
    let queries = inputs.first().map_or(0, |q| match q.ty.shape.as_slice() {
        [b, t, heads, _] => u64::from(*b)
            .saturating_mul(u64::from(*t))
            .saturating_mul(u64::from(*heads)),
        _ => 0,
    });
    queries.saturating_mul(8)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{lookup, spec};

    fn cost(op: &str, inputs: &[(&[u32], Form)], dtype: DType) -> Cost {
        let spec = spec(lookup(op).unwrap()).unwrap();
        let types: Vec<_> = inputs
            .iter()
            .map(|(shape, _)| Type::new(dtype, shape.iter().copied()))
            .collect();
        let output = spec.infer(&types, &[]).unwrap();
        let operands: Vec<_> = types
            .iter()
            .zip(inputs)
            .map(|(ty, (_, form))| Operand { ty, form: *form })
            .collect();
        spec.cost(&operands, &[], &output)
    }

    #[test]
    fn forms_are_told_by_strides() {
        assert_eq!(Form::of(&[2, 3, 4], &[12, 4, 1]), Form::Dense);
        assert_eq!(
            Form::of(&[2, 1, 4], &[4, 99, 1]),
            Form::Dense,
            "a dimension of 1 has any stride"
        );
        assert_eq!(Form::of(&[2, 4, 3], &[12, 1, 4]), Form::Transposed);
        assert_eq!(Form::of(&[4, 2, 3], &[3, 12, 1]), Form::Strided);
        assert_eq!(Form::of(&[2, 3], &[0, 0]), Form::Strided);
        assert_eq!(Form::of(&[], &[]), Form::Dense);
        assert_eq!(Form::of(&[3], &[2]), Form::Strided);
    }

    #[test]
    fn a_product_of_dense_f32_matrices_needs_nothing_beside_its_output() {
        let found = cost(
            "matmul/1",
            &[(&[8, 5, 3], Form::Dense), (&[8, 3, 7], Form::Transposed)],
            DType::F32,
        );
        let expected = Cost {
            flops: 2 * 8 * 5 * 3 * 7,
            shares: false,
            output_bytes: 8 * 5 * 7 * 4,
            temporary_bytes: 0,
        };
        assert_eq!(found, expected);
        let repeated = cost(
            "matmul/1",
            &[(&[8, 5, 3], Form::Dense), (&[1, 3, 7], Form::Dense)],
            DType::F32,
        );
        assert_eq!(repeated.temporary_bytes, 8 * 3 * 7 * 4);
        let stacked = cost(
            "matmul/1",
            &[(&[8, 5, 3], Form::Dense), (&[3, 7], Form::Dense)],
            DType::F32,
        );
        assert_eq!(stacked.temporary_bytes, 0);
    }

    #[test]
    fn what_shares_memory_takes_none() {
        for (op, shape) in [("cat/1", &[2_u32, 2][..]), ("stack/1", &[2])] {
            let spec = spec(lookup(op).unwrap()).unwrap();
            let ty = Type::new(DType::F32, shape.iter().copied());
            let input = Operand {
                ty: &ty,
                form: Form::Strided,
            };
            let output = spec.infer(std::slice::from_ref(&ty), &[Attr::Int(0)]).unwrap();
            let cost = spec.cost(&[input], &[Attr::Int(0)], &output);
            assert_eq!((cost.shares, cost.output_bytes), (true, 0), "{op}");
        }
    }
}

//! Matrix products of tensors as they lie: nothing is copied but what bf16 makes wider.

use bytemuck::{Zeroable, zeroed_vec};
use candle_core::{CpuStorage, D, DType as Candle, InplaceOp2, Layout, Storage, Tensor, WithDType};
use half::f16;
use maquette_kernels::matmul::{self, Element, Matrices};
use maquette_kernels::stop;
use maquette_ops::Error;
use smallvec::SmallVec;

use super::slices::tensor;
use super::{Result, pieces, widened};

/// Multiply-adds of a piece of a large product of bf16.
const PIECE: u64 = 1 << 26;

/// Rows, and columns, of a piece at least.
const SIDE: usize = 32;

/// Matrices whose places are written down at once.
const PLACES: usize = 4096;

/// The product of the last two dimensions, the others broadcast.
pub(super) fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (rank, depth) = (a.rank().max(b.rank()), a.dim(D::Minus1)?);
    let dim = |x: &Tensor, at: usize| (at + x.rank()).checked_sub(rank).map_or(1, |at| x.dims()[at]);
    let mut shape: SmallVec<[usize; 8]> = (0..rank).map(|at| dim(a, at).max(dim(b, at))).collect();
    shape[rank - 2] = dim(a, rank - 2);
    shape[rank - 1] = dim(b, rank - 1);
    match a.dtype() {
        Candle::F32 => return whole::<f32>(a, b, &shape),
        Candle::F16 => return whole::<f16>(a, b, &shape),
        _ => {}
    }
    let work = shape
        .iter()
        .fold(depth as u64, |work, dim| work.saturating_mul(*dim as u64));
    if work <= PIECE {
        return wide(a, b);
    }
    let to = pieces::empty(&shape, a.dtype())?;
    in_pieces(&to, a, b, work)?;
    Ok(to)
}

/// A product of `shape`.
fn whole<T: WithDType + Element + Zeroable>(a: &Tensor, b: &Tensor, shape: &[usize]) -> Result<Tensor> {
    let [batch @ .., rows, columns] = shape else {
        return Err(Error::internal("a product of less than matrices").into());
    };
    let (m, k, n) = (*rows, a.dim(D::Minus1)?, *columns);
    let mut out = zeroed_vec::<T>(shape.iter().product());
    let ((left, a), (right, b)) = (a.storage_and_layout(), b.storage_and_layout());
    let (Storage::Cpu(left), Storage::Cpu(right)) = (&*left, &*right) else {
        return Err(Error::internal("matrices of another device").into());
    };
    let (left, right) = (T::cpu_storage_as_slice(left)?, T::cpu_storage_as_slice(right)?);
    if let Some(rows) = stacked(a, b, m) {
        // The rows of all matrices of the left side are those of one.
        let (from, to) = ([a.start_offset()], [b.start_offset()]);
        let (a, b) = (matrices(left, a, &from), matrices(right, b, &to));
        matmul::product(&a, &b, [rows, k, n], &mut out);
        return tensor(out, shape);
    }
    let many: usize = batch.iter().product();
    for from in (0..many).step_by(PLACES) {
        stop::look();
        let range = from..many.min(from + PLACES);
        let places = |layout: &Layout| range.clone().map(|at| place(layout, batch, at)).collect::<Vec<_>>();
        let (starts_a, starts_b) = (places(a), places(b));
        let (a, b) = (matrices(left, a, &starts_a), matrices(right, b, &starts_b));
        let out = &mut out[range.start * m * n..range.end * m * n];
        matmul::product(&a, &b, [m, k, n], out);
    }
    tensor(out, shape)
}

fn matrices<'a, T>(elements: &'a [T], layout: &Layout, starts: &'a [usize]) -> Matrices<'a, T> {
    let strides = layout.stride();
    Matrices {
        elements,
        strides: [strides[strides.len() - 2], strides[strides.len() - 1]],
        starts,
    }
}

/// How many rows there are in all, if one right side is for all matrices of the left side and their rows lie behind each other.
fn stacked(a: &Layout, b: &Layout, m: usize) -> Option<usize> {
    let shared = b.dims()[..b.dims().len() - 2].iter().all(|dim| *dim == 1);
    let (dims, strides) = (a.dims(), a.stride());
    let row = dims.len() - 2;
    let (mut rows, mut next) = (m, strides[row].checked_mul(m)?);
    for at in (0..row).rev() {
        if dims[at] != 1 && strides[at] != next {
            return None;
        }
        rows *= dims[at];
        next = next.checked_mul(dims[at])?;
    }
    shared.then_some(rows)
}

/// Where the matrix begins that is the `at`th of a batch to which the operand is broadcast.
fn place(layout: &Layout, batch: &[usize], mut at: usize) -> usize {
    let (dims, strides) = (layout.dims(), layout.stride());
    let own = dims.len() - 2;
    let mut start = layout.start_offset();
    for (from_last, dim) in batch.iter().rev().enumerate() {
        let index = at % dim;
        at /= dim;
        if from_last < own && dims[own - 1 - from_last] != 1 {
            start += index * strides[own - 1 - from_last];
        }
    }
    start
}

/// Writes a large product into a dense tensor: matrices one by one, rows, then columns.
fn in_pieces(to: &Tensor, a: &Tensor, b: &Tensor, work: u64) -> Result<()> {
    stop::look();
    let rank = to.rank();
    let (rows, columns) = (rank - 2, rank - 1);
    let least = |axis: usize| if axis >= rows { SIDE } else { 1 };
    let axis = (0..rank).find(|axis| work > PIECE && to.dims()[*axis] > least(*axis));
    let Some(axis) = axis else {
        return Ok(to.slice_set(&wide(a, b)?.reshape(to.dims())?.contiguous()?, 0, 0)?);
    };
    let len = to.dims()[axis];
    let step = (u128::from(PIECE) * len as u128 / u128::from(work)).clamp(least(axis) as u128, len as u128) as usize;
    let cut = |x: &Tensor, from: usize, size: usize| -> Result<Tensor> {
        let own = (axis + x.rank()).checked_sub(rank).filter(|own| x.dims()[*own] == len);
        Ok(own.map_or_else(|| Ok(x.clone()), |own| x.narrow(own, from, size))?)
    };
    for from in (0..len).step_by(step) {
        let size = step.min(len - from);
        let work = (u128::from(work) * size as u128 / len as u128) as u64;
        if axis == columns {
            // Not dense in the target, and with these few rows small.
            stop::look();
            let piece = wide(a, &b.narrow(b.rank() - 1, from, size)?)?;
            let mut shape = to.dims().to_vec();
            shape[columns] = size;
            to.slice_set(&piece.reshape(shape)?.contiguous()?, columns, from)?;
        } else {
            let a = cut(a, from, size)?;
            let b = if axis == rows { b.clone() } else { cut(b, from, size)? };
            in_pieces(&to.narrow(axis, from, size)?, &a, &b, work)?;
        }
    }
    Ok(())
}

/// There is no kernel for bf16.
fn wide(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    pieces::cast(&product(&widened(a)?, &widened(b)?)?, Candle::BF16)
}

/// `x * weight^T + bias`, as a matrix `[rows, out]`.
pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    if x.dtype() == Candle::BF16 {
        let product = pieces::cast(&linear(&widened(x)?, &widened(weight)?, None)?, Candle::BF16)?;
        return Ok(bias.map_or_else(|| Ok(product.clone()), |bias| product.broadcast_add(bias))?);
    }
    let width = weight.dims()[1];
    let rows = x.elem_count() / width;
    let product = product(&pieces::contiguous(x)?.reshape((rows, width))?, &weight.t()?)?;
    let Some(bias) = bias else { return Ok(product) };
    if product.dtype() != Candle::F32 {
        return Ok(product.broadcast_add(bias)?);
    }
    // Nobody else has seen the product yet.
    product.inplace_op2(bias, &AddToRows)?;
    Ok(product)
}

/// Adds a vector to each row of a dense matrix.
struct AddToRows;

impl InplaceOp2 for AddToRows {
    fn name(&self) -> &'static str {
        "add-to-rows"
    }

    fn cpu_fwd(
        &self,
        matrix: &mut CpuStorage,
        _: &Layout,
        vector: &CpuStorage,
        layout: &Layout,
    ) -> candle_core::Result<()> {
        let (CpuStorage::F32(matrix), CpuStorage::F32(vector)) = (matrix, vector) else {
            return Err(candle_core::Error::wrap(Error::internal("not f32")));
        };
        let stride = layout.stride()[0];
        let (start, width) = (layout.start_offset(), layout.dims()[0]);
        matmul::add_to_rows(matrix, width, &vector[start..], stride);
        Ok(())
    }
}

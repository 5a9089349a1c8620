//! Looking rows up by ids, which are checked before anything is read with them.

use candle_core::{CpuStorage, Device, Storage, StridedBlocks, Tensor, WithDType};
use maquette_kernels::stop;
use maquette_ops::Error;

use super::Result;

/// Ids between two looks whether to stop.
const PART: usize = 4096;

/// Calls a function with the place and value of each id, in row-major order.
fn each(ids: &Tensor, mut f: impl FnMut(usize, i64) -> Result<(), Error>) -> Result<(), Error> {
    fn typed<T: Copy>(
        values: &[T],
        ids: &Tensor,
        wide: impl Fn(T) -> i64,
        f: &mut impl FnMut(usize, i64) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut place = 0;
        let mut block = |start: usize, len: usize| {
            values[start..start + len].chunks(PART).try_for_each(|ids| {
                stop::spend(2 * ids.len() as u64);
                ids.iter().try_for_each(|id| {
                    place += 1;
                    f(place - 1, wide(*id))
                })
            })
        };
        match ids.strided_blocks() {
            StridedBlocks::SingleBlock { start_offset, len } => block(start_offset, len),
            StridedBlocks::UniformBlocks {
                start_offset,
                block_len,
                count,
                src_stride,
            } => (0..count).try_for_each(|i| block(start_offset + i * src_stride, block_len)),
            StridedBlocks::MultipleBlocks {
                mut block_start_index,
                block_len,
            } => block_start_index.try_for_each(|start| block(start, block_len)),
        }
    }
    let (storage, _) = ids.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::U8(v)) => typed(v, ids, i64::from, &mut f),
        Storage::Cpu(CpuStorage::U32(v)) => typed(v, ids, i64::from, &mut f),
        Storage::Cpu(CpuStorage::I64(v)) => typed(v, ids, |id| id, &mut f),
        _ => Err(Error::internal("ids that are not integers")),
    }
}

fn below(rows: usize, place: usize, id: i64) -> Result<usize, Error> {
    let row = usize::try_from(id).ok().filter(|row| *row < rows);
    row.ok_or_else(|| Error::invalid_input(format!("id {id} at place {place} is not below {rows}")))
}

/// Checks that every id is below a number of rows.
pub(super) fn check(ids: &Tensor, rows: usize) -> Result<(), Error> {
    each(ids, |place, id| below(rows, place, id).map(drop))
}

/// Calls a function with each row that the ids name.
pub(crate) fn each_row(ids: &Tensor, rows: usize, mut f: impl FnMut(usize)) -> Result<(), Error> {
    each(ids, |place, id| {
        f(below(rows, place, id)?);
        Ok(())
    })
}

/// Rows of a table `[rows, width]` under an output shape `[.., width]`.
pub(super) fn embedding(table: &Tensor, ids: &Tensor, shape: &[usize]) -> Result<Tensor> {
    fn typed<T: WithDType>(v: &[T], table: &Tensor, ids: &Tensor, shape: &[usize]) -> Result<Tensor> {
        let (rows, width) = table.dims2()?;
        let layout = table.layout();
        let (down, across, start) = (layout.stride()[0], layout.stride()[1], layout.start_offset());
        let mut out: Vec<T> = Vec::with_capacity(ids.elem_count() * width);
        each_row(ids, rows, |row| {
            stop::spend(width as u64 / if across == 1 { 4 } else { 1 });
            let row = start + row * down;
            if across == 1 {
                out.extend_from_slice(&v[row..row + width]);
            } else {
                out.extend((0..width).map(|i| v[row + i * across]));
            }
        })?;
        Ok(Tensor::from_vec(out, shape, &Device::Cpu)?)
    }
    let (storage, _) = table.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(v)) => typed(v, table, ids, shape),
        Storage::Cpu(CpuStorage::F16(v)) => typed(v, table, ids, shape),
        Storage::Cpu(CpuStorage::BF16(v)) => typed(v, table, ids, shape),
        Storage::Cpu(CpuStorage::U8(v)) => typed(v, table, ids, shape),
        Storage::Cpu(CpuStorage::U32(v)) => typed(v, table, ids, shape),
        Storage::Cpu(CpuStorage::I64(v)) => typed(v, table, ids, shape),
        _ => Err(Error::internal("a table of a type that no tensor has").into()),
    }
}

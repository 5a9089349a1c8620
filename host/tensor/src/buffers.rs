//! Memory that a run has done with and uses again: taking it from the system page by page, and clearing it, costs as much as some
//! kernels do.

use std::cell::{Cell, RefCell};

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};

/// Fewer elements come from the allocator's own store.
const WORTH_KEEPING: usize = 16 << 10;

/// Memory that is not in use, at most as much as the run's plan leaves.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    idle: RefCell<Vec<Vec<f32>>>,
    bytes: Cell<u64>,
    limit: u64,
}

impl Buffers {
    /// None: each op takes its own memory.
    pub(crate) fn none() -> Self {
        Self::default()
    }

    /// A store of at most so many bytes.
    pub(crate) fn up_to(limit: u64) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Elements of any values.
    pub(crate) fn take(&self, len: usize) -> Vec<f32> {
        if len >= WORTH_KEEPING {
            let mut idle = self.idle.borrow_mut();
            let fitting = idle
                .iter()
                .enumerate()
                .filter(|(_, buffer)| buffer.len() >= len && buffer.len() / 2 <= len);
            let best = fitting.min_by_key(|(_, buffer)| buffer.len()).map(|(at, _)| at);
            if let Some(at) = best {
                let mut buffer = idle.swap_remove(at);
                self.bytes.set(self.bytes.get() - bytes(&buffer));
                buffer.truncate(len);
                return buffer;
            }
            // What is idle was paid for as part of the run's peak, which the new memory counts towards as well.
            idle.clear();
            self.bytes.set(0);
        }
        vec![0.0; len]
    }

    /// Takes back the memory of a tensor that nothing else uses; `live` bytes of the run's are in use beside it.
    pub(crate) fn give(&self, tensor: &Tensor, live: u64) {
        struct Steal<'a>(&'a Cell<Vec<f32>>);
        impl InplaceOp1 for Steal<'_> {
            fn name(&self) -> &'static str {
                "steal"
            }
            fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
                if let CpuStorage::F32(elements) = storage {
                    self.0.set(std::mem::take(elements));
                }
                Ok(())
            }
        }
        if tensor.dtype() != candle_core::DType::F32 || tensor.elem_count() < WORTH_KEEPING {
            return;
        }
        let stolen = Cell::new(Vec::new());
        if tensor.inplace_op1(&Steal(&stolen)).is_err() {
            return;
        }
        let buffer = stolen.into_inner();
        let room = self.limit.saturating_sub(live).saturating_sub(self.bytes.get());
        if bytes(&buffer) <= room {
            self.bytes.set(self.bytes.get() + bytes(&buffer));
            self.idle.borrow_mut().push(buffer);
        }
    }
}

fn bytes(buffer: &Vec<f32>) -> u64 {
    buffer.capacity() as u64 * 4
}

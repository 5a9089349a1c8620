//! A scope on a device: the same uploads, ops and reads as jobs of the device's thread.

use std::sync::Arc;

use maquette_ops::{Attr, Error, OpSpec, Operand, Type};
use smallvec::SmallVec;

use super::{Scope, guard};
use crate::budget::{Budget, Charge};
use crate::cuda::{self, Executor, Remote, Slot, Value};
use crate::tensor::{self, Elements, Owner, Tensor, row_major, shared_strides};

impl Scope {
    /// Charges bytes; if they do not fit, waits first for the jobs sent before, which may give some back.
    pub(crate) fn charge_behind(&self, executor: &Executor, bytes: u64) -> Result<Charge, Error> {
        self.charge_from(self.budget(), executor, bytes)
    }

    /// The same from a budget that need not be the scope's.
    pub(crate) fn charge_from(&self, budget: &Arc<Budget>, executor: &Executor, bytes: u64) -> Result<Charge, Error> {
        match budget.charge(bytes) {
            Ok(charge) => Ok(charge),
            Err(_) => {
                executor.ask(&self.client(), |_| Ok(()))?;
                budget.charge(bytes)
            }
        }
    }

    pub(super) fn upload(&self, executor: &Executor, ty: Type<u32>, bytes: &[u8]) -> Result<Tensor, Error> {
        let charge = self.charge_behind(executor, ty.bytes()).map_err(|e| e.at(&ty))?;
        let owner = Owner::Budget(Arc::new(charge));
        let range = cuda::range_of_bytes(ty.dtype, bytes);
        let host = tensor::from_bytes(ty.dtype, &ty.shape, bytes)?;
        let slot = Slot::empty(owner.clone());
        let filled = Arc::clone(&slot);
        executor.enqueue(&self.client(), move |turn, go_on| {
            let tensor = go_on.and_then(|()| cuda::upload(&host, turn.device));
            filled.fill(tensor.map(|tensor| Value { tensor, range }));
        })?;
        self.count(|stats| stats.uploaded_bytes += bytes.len() as u64);
        Ok(Tensor {
            elements: Elements::There(Box::new(Remote {
                slot,
                strides: row_major(&ty.shape),
            })),
            ty,
            owner,
        })
    }

    /// Sends an op whose output type is known.
    pub(super) fn send(
        &self,
        executor: &Executor,
        spec: &'static OpSpec,
        inputs: &[&Tensor],
        attrs: &[Attr],
        ty: Type<u32>,
    ) -> Result<Tensor, Error> {
        cuda::supported(spec)?;
        let operands: SmallVec<[Operand<'_>; 4]> = inputs.iter().map(|input| input.operand()).collect();
        let cost = cuda::cost(spec, &operands, attrs, &ty);
        let at = |e: Error| {
            let types: SmallVec<[&Type<u32>; 4]> = inputs.iter().map(|input| &input.ty).collect();
            e.at(spec.applied_to(&types))
        };
        let (owner, strides) = match inputs.first() {
            Some(first) if cost.shares => (
                first.owner.clone(),
                shared_strides(spec, attrs, (&first.ty, first.strides()), &ty),
            ),
            _ => {
                let charge = self.charge_behind(executor, cost.output_bytes).map_err(at)?;
                (Owner::Budget(Arc::new(charge)), row_major(&ty.shape))
            }
        };
        let temporary = self.charge_behind(executor, cost.temporary_bytes).map_err(at)?;
        let slots: SmallVec<[Arc<Slot>; 4]> = inputs
            .iter()
            .map(|input| Ok(Arc::clone(&input.there()?.slot)))
            .collect::<Result<_, Error>>()?;
        let slot = Slot::empty(owner.clone());
        let (filled, attrs, out) = (Arc::clone(&slot), attrs.to_vec(), ty.clone());
        executor.enqueue(&self.client(), move |turn, go_on| {
            let run = || {
                go_on?;
                let values = slots.iter().map(|slot| slot.get());
                let values: SmallVec<[&Value; 4]> = values.collect::<Result<_, _>>()?;
                guard(spec, || cuda::run(spec, &values, &attrs, &out, turn))
            };
            filled.fill(run());
            drop(temporary);
        })?;
        self.count(|stats| stats.ops += 1);
        Ok(Tensor {
            elements: Elements::There(Box::new(Remote { slot, strides })),
            ty,
            owner,
        })
    }

    /// Waits for a range of elements.
    pub(super) fn download(
        &self,
        executor: &Executor,
        tensor: &Tensor,
        start: usize,
        count: usize,
    ) -> Result<Vec<u8>, Error> {
        let slot = Arc::clone(&tensor.there()?.slot);
        // A view is made dense as a whole, and a part is copied out before it is sent.
        let part = (count as u64).saturating_mul(tensor.dtype().size() as u64);
        let copies = if count == 0 {
            0
        } else {
            tensor.bytes().saturating_add(part)
        };
        let charge = self
            .charge_behind(executor, copies)
            .map_err(|e| e.at(format_args!("reading {}", tensor.ty)))?;
        let bytes = executor.ask(&self.client(), move |_| {
            let fail = |e: candle_core::Error| cuda::failed("reading", &e);
            let value = slot.get()?;
            if count == 0 {
                return Ok(Vec::new());
            }
            let dense = value
                .tensor
                .contiguous()
                .and_then(|dense| dense.flatten_all())
                .map_err(fail)?;
            let whole = count == dense.elem_count() && tensor::stored_elements(&dense) == count;
            // All the memory under a view would be sent.
            let part = match whole {
                true => dense,
                false => dense
                    .narrow(0, start, count)
                    .and_then(|part| part.force_contiguous())
                    .map_err(fail)?,
            };
            let host = part.to_device(&candle_core::Device::Cpu).map_err(fail)?;
            let bytes = tensor::to_bytes(&host, 0, count);
            drop(charge);
            bytes
        })?;
        self.count(|stats| stats.read_bytes += bytes.len() as u64);
        Ok(bytes)
    }
}

//! `tensors`: handles to tensors in the host, and ops applied one at a time.

use maquette_tensor::Tensor;
use maquette_tensor::ops::{self, Error, OpId};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource, WasmList};

use super::{attrs, stale, too_many};
use crate::bindings::TensorHandle;
use crate::bindings::maquette::model::{tensors, types};
use crate::state::{HostError, State};

/// Ops rarely have more inputs; those with more are looked up on the heap.
const INLINE_INPUTS: usize = 4;

impl State {
    /// The tensor behind a handle.
    #[inline]
    pub(super) fn tensor(&self, handle: &Resource<TensorHandle>) -> wasmtime::Result<&Tensor> {
        self.tensors.get(handle.rep()).ok_or_else(|| stale("tensor"))
    }

    /// A new handle to a tensor.
    #[inline]
    pub(super) fn hand_out(&mut self, tensor: Tensor) -> Result<Resource<TensorHandle>, Error> {
        self.tensors
            .insert(tensor)
            .map(Resource::new_own)
            .ok_or_else(|| too_many("tensors"))
    }

    /// Refuses a download that the guest's memory could not take.
    fn check_download(&self, bytes: u64) -> Result<(), Error> {
        let limit = self.package.limits.memory_bytes;
        if bytes > limit {
            return Err(Error::quota(format!(
                "reading {bytes} bytes exceeds the guest's memory limit of {limit} bytes: use read-range, or reduce the tensor in the host first"
            )));
        }
        Ok(())
    }
}

impl tensors::Host for State {
    fn resolve(&mut self, name: String) -> Result<u32, HostError> {
        self.enter("tensors.resolve")?;
        Ok(ops::lookup(&name)?.0)
    }

    fn apply(
        &mut self,
        op: u32,
        inputs: Vec<Resource<TensorHandle>>,
        given: Vec<types::Attr>,
    ) -> Result<Resource<TensorHandle>, HostError> {
        self.enter("tensors.apply")?;
        let given = attrs(given)?;
        self.scope();
        let scope = self.scope_if_any().ok_or_else(|| stale("scope"))?;
        let output = match *inputs.as_slice() {
            [ref a] => scope.apply(OpId(op), &[self.tensor(a)?], &given)?,
            [ref a, ref b] => scope.apply(OpId(op), &[self.tensor(a)?, self.tensor(b)?], &given)?,
            ref many => {
                let mut list = Vec::with_capacity(many.len().max(INLINE_INPUTS));
                for handle in many {
                    list.push(self.tensor(handle)?);
                }
                scope.apply(OpId(op), &list, &given)?
            }
        };
        Ok(self.hand_out(output)?)
    }
}

impl tensors::HostTensor for State {
    /// Nobody calls it: [`link_uploads`] puts another in its place.
    fn from_bytes(&mut self, _: types::Dtype, _: Vec<u32>, _: Vec<u8>) -> Result<Resource<TensorHandle>, HostError> {
        Err(wasmtime::format_err!("uploads are not linked").into())
    }

    fn shape(&mut self, this: Resource<TensorHandle>) -> wasmtime::Result<Vec<u32>> {
        self.enter("tensors.tensor.shape")?;
        Ok(self.tensor(&this)?.shape().to_vec())
    }

    fn dtype(&mut self, this: Resource<TensorHandle>) -> wasmtime::Result<types::Dtype> {
        self.enter("tensors.tensor.dtype")?;
        Ok(self.tensor(&this)?.dtype().into())
    }

    fn read(&mut self, this: Resource<TensorHandle>) -> Result<Vec<u8>, HostError> {
        self.enter("tensors.tensor.read")?;
        self.scope();
        let tensor = self.tensor(&this)?;
        self.check_download(tensor.bytes())?;
        let scope = self.scope_if_any().ok_or_else(|| stale("scope"))?;
        Ok(scope.read(tensor)?)
    }

    fn read_range(&mut self, this: Resource<TensorHandle>, start: u64, count: u64) -> Result<Vec<u8>, HostError> {
        self.enter("tensors.tensor.read-range")?;
        self.scope();
        let tensor = self.tensor(&this)?;
        self.check_download(count.saturating_mul(tensor.dtype().size() as u64))?;
        let scope = self.scope_if_any().ok_or_else(|| stale("scope"))?;
        Ok(scope.read_range(tensor, start, count)?)
    }

    fn drop(&mut self, this: Resource<TensorHandle>) -> wasmtime::Result<()> {
        self.tensors.remove(this.rep()).map(drop).ok_or_else(|| stale("tensor"))
    }
}

/// Uploads read the guest's memory where it lies. The bindings would copy it first, in one go however much it is.
pub(crate) fn link_uploads(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let mut tensors = linker.instance("maquette:model/tensors@0.1.0")?;
    tensors.func_wrap("[static]tensor.from-bytes", |mut store, (dtype, shape, data)| {
        Ok((match upload(&mut store, dtype, shape, &data) {
            Ok(tensor) => Ok(tensor),
            Err(e) => Err(types::Host::convert_error(store.data_mut(), e)?),
        },))
    })?;
    linker.allow_shadowing(false);
    Ok(())
}

fn upload(
    store: &mut StoreContextMut<'_, State>,
    dtype: types::Dtype,
    shape: Vec<u32>,
    data: &WasmList<u8>,
) -> Result<Resource<TensorHandle>, HostError> {
    let state = store.data_mut();
    state.enter("tensors.tensor.from-bytes")?;
    state.scope();
    let scope = store.data().scope_if_any().ok_or_else(|| stale("scope"))?;
    let tensor = scope.from_bytes(dtype.into(), &shape, data.as_le_slice(&*store))?;
    Ok(store.data_mut().hand_out(tensor)?)
}

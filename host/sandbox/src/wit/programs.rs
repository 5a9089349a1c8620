//! `programs`: recorded tensor graphs, compiled once and run with one crossing.

use std::sync::Arc;

use maquette_tensor::ops::Error;
use maquette_tensor::ops::program::{Constant, Description, Input, Node, WeightRef};
use maquette_tensor::{KvCache, Program};
use wasmtime::component::Resource;

use super::{attrs, dims, stale, too_many};
use crate::bindings::maquette::model::programs;
use crate::bindings::{CacheHandle, ProgramHandle, TensorHandle};
use crate::state::{HostError, State};

/// Bytes that the programs which a sandbox holds may take together.
const MAX_PROGRAM_BYTES: usize = 64 << 20;

impl State {
    fn program(&self, handle: &Resource<ProgramHandle>) -> wasmtime::Result<&Arc<Program>> {
        self.programs.get(handle.rep()).ok_or_else(|| stale("program"))
    }

    /// A new handle to a program. What a sandbox holds stays in memory when the cache has long let go of it.
    fn hand_out_program(&mut self, program: Arc<Program>) -> Result<Resource<ProgramHandle>, Error> {
        let bytes = self.program_bytes.saturating_add(program.bytes());
        if bytes > MAX_PROGRAM_BYTES {
            return Err(Error::quota(format!(
                "the programs that the sandbox holds would take {bytes} bytes; the limit is {MAX_PROGRAM_BYTES}: drop those no longer used"
            )));
        }
        let handle = self.programs.insert(program).ok_or_else(|| too_many("programs"))?;
        self.program_bytes = bytes;
        Ok(Resource::new_own(handle))
    }
}

impl programs::Host for State {}

impl programs::HostProgram for State {
    fn find(&mut self, digest: String) -> wasmtime::Result<Option<Resource<ProgramHandle>>> {
        self.enter("programs.program.find")?;
        self.scope();
        let scope = self.scope_if_any().ok_or_else(|| stale("scope"))?;
        let Some(program) = scope.find(&digest, &self.package.weights) else {
            return Ok(None);
        };
        Ok(self.hand_out_program(program).ok())
    }

    fn compile(&mut self, description: programs::Description) -> Result<Resource<ProgramHandle>, HostError> {
        self.enter("programs.program.compile")?;
        let description = convert(description)?;
        self.scope();
        let scope = self.scope_if_any().ok_or_else(|| stale("scope"))?;
        let program = scope.compile(&description, &self.package.weights)?;
        Ok(self.hand_out_program(program)?)
    }

    fn digest(&mut self, this: Resource<ProgramHandle>) -> wasmtime::Result<String> {
        self.enter("programs.program.digest")?;
        Ok(self.program(&this)?.digest().to_owned())
    }

    fn cost(&mut self, this: Resource<ProgramHandle>, shapes: Vec<Vec<u32>>) -> Result<programs::Cost, HostError> {
        self.enter("programs.program.cost")?;
        let shapes: Vec<&[u32]> = shapes.iter().map(Vec::as_slice).collect();
        let cost = self.program(&this)?.cost(&shapes)?;
        Ok(programs::Cost {
            flops: cost.flops,
            peak_bytes: cost.peak_bytes,
        })
    }

    fn run(
        &mut self,
        this: Resource<ProgramHandle>,
        inputs: Vec<Resource<TensorHandle>>,
        caches: Vec<Resource<CacheHandle>>,
    ) -> Result<Vec<Resource<TensorHandle>>, HostError> {
        self.enter("programs.program.run")?;
        self.scope();
        let program = Arc::clone(self.program(&this)?);
        let mut list = Vec::with_capacity(inputs.len());
        for handle in &inputs {
            list.push(self.tensor(handle)?);
        }
        let caches: Vec<&KvCache> = caches
            .iter()
            .map(|handle| self.cache(handle))
            .collect::<Result<_, _>>()?;
        let scope = self.scope_if_any().ok_or_else(|| stale("scope"))?;
        let outputs = program.run_with(scope, &list, &caches)?;
        outputs.into_iter().map(|tensor| Ok(self.hand_out(tensor)?)).collect()
    }

    fn drop(&mut self, this: Resource<ProgramHandle>) -> wasmtime::Result<()> {
        let program = self.programs.remove(this.rep()).ok_or_else(|| stale("program"))?;
        self.program_bytes -= program.bytes();
        Ok(())
    }
}

fn convert(description: programs::Description) -> Result<Description, Error> {
    let inputs = description.inputs.into_iter().map(|input| {
        Ok(Input {
            name: input.name,
            dtype: input.dtype.into(),
            shape: dims(input.shape)?,
        })
    });
    let weights = description.weights.into_iter().map(|weight| WeightRef {
        file: weight.file,
        name: weight.name,
        dtype: weight.dtype.into(),
        shape: weight.shape,
    });
    let constants = description.constants.into_iter().map(|constant| Constant {
        dtype: constant.dtype.into(),
        shape: constant.shape,
        data: constant.data,
    });
    let nodes = description.nodes.into_iter().map(|node| {
        Ok(Node {
            op: node.op,
            inputs: node.inputs,
            attrs: attrs(node.attrs)?,
            location: node.location,
        })
    });
    Ok(Description {
        symbols: description.symbols,
        inputs: inputs.collect::<Result<_, Error>>()?,
        weights: weights.collect(),
        constants: constants.collect(),
        caches: description.caches.into_iter().map(Into::into).collect(),
        nodes: nodes.collect::<Result<_, Error>>()?,
        outputs: description.outputs,
    })
}

//! Compiling: weights bound, constants folded, the order of steps and the end of each value's life found.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use maquette_ops::program::{Description, Node, WeightRef, located};
use maquette_ops::{Attr, Cost, Error, OpId, OpSpec, Operand, Type, lookup, show, spec};
use rayon::prelude::*;
use smallvec::SmallVec;

use super::plan::{Plans, concrete};
use super::{Place, Program, Step, Table};
use crate::WeightStore;
use crate::buffers::Buffers;
use crate::kernels;
use crate::safetensors::WeightFile;
use crate::scope::guard;
use crate::tensor::{self, Owner, Tensor};

/// Bytes that folding may take in one program, temporaries included; what is beyond is computed in every run.
const MAX_FOLDED_BYTES: u64 = 2 << 20;

/// Floating-point operations that folding may take in one program: milliseconds.
const MAX_FOLDED_FLOPS: u64 = 50_000_000;

type Files = BTreeMap<String, Arc<WeightFile>>;

impl Program {
    pub(super) fn compile(
        digest: String,
        description: &Description,
        files: &Files,
        weights: &WeightStore,
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Self, Error> {
        description.check_while(go_on)?;
        let mut known = Known::default();
        known.bind_weights(description, files, weights)?;
        known.bind_constants(description)?;
        let leaves = description.leaves() as u32;
        let mut room = Room {
            bytes: MAX_FOLDED_BYTES,
            flops: MAX_FOLDED_FLOPS,
        };
        let mut nodes = Vec::with_capacity(description.nodes.len());
        for (i, node) in description.nodes.iter().enumerate() {
            go_on()?;
            let spec = resolve(&node.op)?;
            match fold(spec, node, &known.bound, &mut room).map_err(|e| located(i, node, e))? {
                Some(folded) => drop(known.bound.insert(leaves + i as u32, folded)),
                None => nodes.push((i as u32, spec)),
            }
        }
        let mut program = known.schedule(description, &nodes);
        program.digest = digest;
        program.bytes = description.bytes() + (MAX_FOLDED_BYTES - room.bytes) as usize;
        Ok(program)
    }
}

/// What is known before a run, by value number.
#[derive(Default)]
struct Known {
    bound: HashMap<u32, Tensor>,
    tables: HashMap<u32, Table>,
}

impl Known {
    fn bind_weights(&mut self, description: &Description, files: &Files, weights: &WeightStore) -> Result<(), Error> {
        let uses = Uses::of(description);
        let mut loads = Vec::new();
        for (i, weight) in description.weights.iter().enumerate() {
            let value = (description.inputs.len() + i) as u32;
            let file = files.get(&weight.file).ok_or_else(|| {
                let names: Vec<_> = files.keys().map(String::as_str).collect();
                Error::unsupported(format!(
                    "this version has no weight file `{}`; it has: {}",
                    weight.file,
                    names.join(", ")
                ))
            })?;
            let info = file.info(&weight.name)?;
            if *info.shape != *weight.shape {
                return Err(Error::shape(format!(
                    "weight `{}` is {} in the file; the program expects {}",
                    weight.name,
                    show(&info.shape),
                    show(&weight.shape)
                )));
            }
            match uses.weights[i] {
                Use::Nothing => {}
                Use::Rows if let Some(table) = Table::of(file, weight)? => drop(self.tables.insert(value, table)),
                _ => loads.push((value, file, weight)),
            }
        }
        // Copying weights out of their files is most of a first call: every core takes part.
        let load = |(value, file, weight): &(u32, &Arc<WeightFile>, &WeightRef)| {
            Ok((*value, weights.get(file, &weight.name, Some(weight.dtype))?))
        };
        let loaded = loads.par_iter().map(load).collect::<Result<Vec<_>, Error>>()?;
        self.bound.extend(loaded);
        Ok(())
    }

    fn bind_constants(&mut self, description: &Description) -> Result<(), Error> {
        let first = description.inputs.len() + description.weights.len();
        for (i, constant) in description.constants.iter().enumerate() {
            let tensor = Tensor {
                inner: tensor::from_bytes(constant.dtype, &constant.shape, &constant.data)?,
                ty: Type::new(constant.dtype, constant.shape.iter().copied()),
                owner: Owner::Program,
            };
            self.bound.insert((first + i) as u32, tensor);
        }
        Ok(())
    }

    /// The program: the steps that its outputs need, in the guest's order, each with where its inputs are found and what is not
    /// needed after it. What only folded nodes used is let go.
    fn schedule(mut self, description: &Description, nodes: &[(u32, &'static OpSpec)]) -> Program {
        let leaves = description.leaves() as u32;
        let mut needed: HashSet<u32> = description.outputs.iter().copied().collect();
        let mut kept: Vec<(u32, &'static OpSpec, SmallVec<[u32; 2]>)> = Vec::with_capacity(nodes.len());
        for (node, spec) in nodes.iter().rev() {
            if !needed.contains(&(leaves + node)) {
                continue;
            }
            let mut ends = SmallVec::new();
            for input in &description.nodes[*node as usize].inputs {
                let computed = *input >= leaves && !self.bound.contains_key(input);
                if needed.insert(*input) && computed {
                    ends.push(*input);
                }
            }
            kept.push((*node, spec, ends));
        }
        kept.reverse();
        let mut program = Program {
            digest: String::new(),
            description: description.clone(),
            bound: Vec::new(),
            tables: Vec::new(),
            steps: Vec::with_capacity(kept.len()),
            outputs: Vec::with_capacity(description.outputs.len()),
            plans: Plans::default(),
            bytes: 0,
        };
        let step_of: HashMap<u32, u32> = kept.iter().zip(0..).map(|((node, ..), i)| (leaves + node, i)).collect();
        let mut places: HashMap<u32, Place> = HashMap::new();
        let mut place = |value: u32, program: &mut Program| {
            *places.entry(value).or_insert_with(|| {
                if let Some(step) = step_of.get(&value) {
                    Place::Step(*step)
                } else if let Some(tensor) = self.bound.remove(&value) {
                    program.bound.push(tensor);
                    Place::Bound(program.bound.len() as u32 - 1)
                } else if let Some(table) = self.tables.remove(&value) {
                    program.tables.push(table);
                    Place::Table(program.tables.len() as u32 - 1)
                } else {
                    Place::Input(value)
                }
            })
        };
        for (node, spec, ends) in kept {
            let inputs = &description.nodes[node as usize].inputs;
            let step = Step {
                node,
                spec,
                inputs: inputs.iter().map(|value| place(*value, &mut program)).collect(),
                last_uses: ends.iter().filter_map(|value| step_of.get(value).copied()).collect(),
            };
            program.steps.push(step);
        }
        for value in &description.outputs {
            let output = place(*value, &mut program);
            program.outputs.push(output);
        }
        program
    }
}

/// How a program uses a weight.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Nothing,
    /// Only as the table of `embedding/1`.
    Rows,
    Anything,
}

struct Uses {
    weights: Vec<Use>,
}

impl Uses {
    fn of(description: &Description) -> Self {
        let first = description.inputs.len();
        let mut weights = vec![Use::Nothing; description.weights.len()];
        let mut note = |value: u32, how: Use| {
            let Some(weight) = (value as usize).checked_sub(first).and_then(|at| weights.get_mut(at)) else {
                return;
            };
            *weight = if *weight == Use::Nothing || *weight == how {
                how
            } else {
                Use::Anything
            };
        };
        for node in &description.nodes {
            for (i, value) in node.inputs.iter().enumerate() {
                let how = match (node.op.as_str(), i) {
                    ("embedding/1", 0) => Use::Rows,
                    _ => Use::Anything,
                };
                note(*value, how);
            }
        }
        for value in &description.outputs {
            note(*value, Use::Anything);
        }
        Self { weights }
    }
}

fn resolve(name: &str) -> Result<&'static OpSpec, Error> {
    let OpId(id) = lookup(name)?;
    spec(OpId(id)).ok_or_else(|| Error::internal("an op left the table"))
}

/// What is left for folding.
struct Room {
    bytes: u64,
    flops: u64,
}

impl Room {
    fn take(&mut self, cost: &Cost) -> bool {
        let bytes = cost.output_bytes.saturating_add(cost.temporary_bytes);
        match (self.bytes.checked_sub(bytes), self.flops.checked_sub(cost.flops)) {
            (Some(bytes), Some(flops)) => {
                (self.bytes, self.flops) = (bytes, flops);
                true
            }
            _ => false,
        }
    }
}

/// Computes a node that depends on bound values alone, if there is room for it and it has no symbols.
fn fold(
    spec: &'static OpSpec,
    node: &Node,
    bound: &HashMap<u32, Tensor>,
    room: &mut Room,
) -> Result<Option<Tensor>, Error> {
    let inputs: Option<SmallVec<[&Tensor; 4]>> = node.inputs.iter().map(|value| bound.get(value)).collect();
    let symbolic = |attr: &Attr| matches!(attr, Attr::Dims(dims) if dims.iter().any(|dim| dim.as_constant().is_none()));
    let Some(inputs) = inputs.filter(|_| !node.attrs.iter().any(symbolic)) else {
        return Ok(None);
    };
    let attrs = concrete(&node.attrs, &[])?;
    let attrs = attrs.as_deref().unwrap_or(&node.attrs);
    let types: SmallVec<[&Type<u32>; 4]> = inputs.iter().map(|input| &input.ty).collect();
    let ty = spec.infer_refs(&types, attrs)?;
    let operands: SmallVec<[Operand<'_>; 4]> = inputs.iter().map(|input| input.operand()).collect();
    let cost = spec.cost(&operands, attrs, &ty);
    if !room.take(&cost) {
        return Ok(None);
    }
    let list: SmallVec<[&candle_core::Tensor; 4]> = inputs.iter().map(|input| &input.inner).collect();
    let inner = guard(spec, || kernels::run(spec, &list, attrs, &ty, &Buffers::none()))?;
    let owner = match (cost.shares, inputs.first()) {
        (true, Some(first)) => first.owner.clone(),
        _ => Owner::Program,
    };
    Ok(Some(Tensor { inner, ty, owner }))
}

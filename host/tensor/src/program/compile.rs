//! Compiling: weights bound, constants folded, the order of steps and the end of each value's life found.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use maquette_kernels::stop;
use maquette_kernels::team::engaged;
use maquette_ops::program::{Description, Node, located};
use maquette_ops::{Attr, Cost, DType, Dim, Error, Op, OpId, OpSpec, Operand, Type, lookup, show, spec};
use smallvec::SmallVec;

use super::fuse::{Chain, Fused, chains};
use super::plan::{Plans, concrete};
use super::{Place, Program, Right, Step, Table};
use crate::WeightStore;
use crate::buffers::Buffers;
use crate::cuda::{self, Executor, Remote, Slot, Value};
use crate::kernels;
use crate::scope::guard;
use crate::tensor::{self, Elements, Owner, Tensor, row_major, shared_strides};
use crate::weight_file::WeightFile;

/// Bytes that folding may take in one program, temporaries included; what is beyond is computed in every run.
const MAX_FOLDED_BYTES: u64 = 2 << 20;

/// Floating-point operations that folding may take in one program: milliseconds.
const MAX_FOLDED_FLOPS: u64 = 50_000_000;

type Files = BTreeMap<String, Arc<WeightFile>>;

impl Program {
    /// Before weights are loaded, `make_room` is told how many bytes they take.
    pub(super) fn compile(
        digest: String,
        description: &Description,
        files: &Files,
        weights: &WeightStore,
        make_room: &dyn Fn(u64),
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let types = description.check_while(go_on)?;
        let executor = weights.executor();
        if executor.is_some() {
            for (i, node) in description.nodes.iter().enumerate() {
                cuda::supported(resolve(&node.op)?).map_err(|e| located(i, node, e))?;
            }
        }
        let mut known = Known::default();
        known.bind_weights(description, files, weights, make_room)?;
        known.bind_constants(description, executor)?;
        let leaves = description.leaves() as u32;
        let mut room = Room {
            bytes: MAX_FOLDED_BYTES,
            flops: MAX_FOLDED_FLOPS,
        };
        let mut nodes = Vec::with_capacity(description.nodes.len());
        for (i, node) in description.nodes.iter().enumerate() {
            go_on()?;
            let spec = resolve(&node.op)?;
            match fold(spec, node, &known.bound, &mut room, executor).map_err(|e| located(i, node, e))? {
                Some(folded) => drop(known.bound.insert(leaves + i as u32, folded)),
                None => nodes.push((i as u32, spec)),
            }
        }
        let mut program = known.schedule(description, &types, &nodes);
        program.digest = digest;
        program.remote = executor.is_some();
        program.bytes = description.bytes() + (MAX_FOLDED_BYTES - room.bytes) as usize;
        Ok(program)
    }
}

/// What is known before a run, by value number.
#[derive(Default)]
struct Known {
    bound: HashMap<u32, Tensor>,
    tables: HashMap<u32, Table>,
    rights: HashMap<u32, Right>,
}

impl Known {
    fn bind_weights(
        &mut self,
        description: &Description,
        files: &Files,
        weights: &WeightStore,
        make_room: &dyn Fn(u64),
    ) -> Result<(), Error> {
        let uses = Uses::of(description, weights.executor().is_some());
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
            let uses = uses.weights[i];
            let mut anything = uses.anything;
            if uses.rows {
                match Table::of(file, weight)? {
                    Some(table) => drop(self.tables.insert(value, table)),
                    None => anything = true,
                }
            }
            if uses.product && !uses.anything {
                loads.push((value, file, weight, true));
            }
            if anything {
                loads.push((value, file, weight, false));
            }
        }
        let mut missing = 0_u64;
        for (_, file, weight, product) in &loads {
            missing = missing.saturating_add(weights.missing(file, &weight.name, weight.dtype, *product)?);
        }
        if missing > 0 {
            make_room(missing);
        }
        // Copying weights out of their files is most of a first call: each is copied by every core that is free, and between them the call
        // may stop or make way for others.
        engaged(|| {
            for (value, file, weight, product) in loads {
                stop::look();
                if product && let Some(packed) = weights.matrix(file, &weight.name)? {
                    let ty = Type::new(weight.dtype, weight.shape.iter().copied());
                    self.rights.insert(value, Right { weight: packed, ty });
                } else {
                    let tensor = weights.get(file, &weight.name, Some(weight.dtype))?;
                    self.bound.insert(value, tensor);
                }
            }
            Ok::<_, Error>(())
        })?;
        Ok(())
    }

    fn bind_constants(&mut self, description: &Description, executor: Option<&Arc<Executor>>) -> Result<(), Error> {
        let first = description.inputs.len() + description.weights.len();
        for (i, constant) in description.constants.iter().enumerate() {
            let host = tensor::from_bytes(constant.dtype, &constant.shape, &constant.data)?;
            let tensor = Tensor {
                elements: match executor {
                    None => Elements::Here(host),
                    Some(executor) => Elements::There(Box::new(executor.place(host, Owner::Program)?)),
                },
                ty: Type::new(constant.dtype, constant.shape.iter().copied()),
                owner: Owner::Program,
            };
            self.bound.insert((first + i) as u32, tensor);
        }
        Ok(())
    }

    /// The program: the steps that its outputs and its caches need, in the guest's order, each with where its inputs are found and
    /// what is not needed after it. What only folded nodes used is let go.
    fn schedule(mut self, description: &Description, types: &[Type<Dim>], nodes: &[(u32, &'static OpSpec)]) -> Program {
        let leaves = description.leaves() as u32;
        let mut needed: HashSet<u32> = description.outputs.iter().copied().collect();
        let mut live = Vec::with_capacity(nodes.len());
        for (node, spec) in nodes.iter().rev() {
            if needed.contains(&(leaves + node)) || spec.op == Op::CachedAttention {
                needed.extend(&description.nodes[*node as usize].inputs);
                live.push((*node, *spec));
            }
        }
        live.reverse();
        let product = |node: u32| {
            let inputs = &description.nodes[node as usize].inputs;
            inputs
                .get(1)
                .is_some_and(|weight| self.rights.contains_key(weight) && inputs[0] != *weight)
        };
        let chains = chains(description, types, &live, product);
        let taken: HashSet<u32> = (chains.iter())
            .flat_map(|(last, (first, chain))| {
                let between = chain.activation != Default::default() && chain.residual.is_some();
                let middle = description.nodes[*last as usize].inputs.iter();
                let middle = middle.filter(move |value| between && Some(**value) != chain.residual);
                middle.map(|value| value.wrapping_sub(leaves)).chain([*first])
            })
            .collect();
        // Each step: the node that it stands in the place of, that whose op it is, and what follows.
        type Kept = (u32, u32, &'static OpSpec, Chain, SmallVec<[u32; 2]>);
        let mut kept: Vec<Kept> = Vec::with_capacity(live.len());
        let specs: HashMap<u32, &'static OpSpec> = live.iter().copied().collect();
        let mut seen: HashSet<u32> = description.outputs.iter().copied().collect();
        for (node, spec) in live.iter().rev() {
            if taken.contains(node) {
                continue;
            }
            let (first, chain) = chains.get(node).copied().unwrap_or((*node, Chain::default()));
            let mut ends = SmallVec::new();
            for input in description.nodes[first as usize].inputs.iter().chain(&chain.residual) {
                let computed = *input >= leaves && !self.bound.contains_key(input);
                if seen.insert(*input) && computed {
                    ends.push(*input);
                }
            }
            kept.push((*node, first, specs.get(&first).copied().unwrap_or(spec), chain, ends));
        }
        kept.reverse();
        let mut program = Program {
            digest: String::new(),
            description: description.clone(),
            bound: Vec::new(),
            tables: Vec::new(),
            rights: Vec::new(),
            steps: Vec::with_capacity(kept.len()),
            outputs: Vec::with_capacity(description.outputs.len()),
            plans: Plans::default(),
            remote: false,
            bytes: 0,
        };
        let step_of: HashMap<u32, u32> = kept.iter().zip(0..).map(|((node, ..), i)| (leaves + node, i)).collect();
        let mut places: HashMap<(u32, Role), Place> = HashMap::new();
        let mut place = |value: u32, role: Role, program: &mut Program| {
            *places.entry((value, role)).or_insert_with(|| {
                if let Some(step) = step_of.get(&value) {
                    Place::Step(*step)
                } else if role == Role::Product
                    && let Some(right) = self.rights.remove(&value)
                {
                    program.rights.push(right);
                    Place::Right(program.rights.len() as u32 - 1)
                } else if role == Role::Rows
                    && let Some(table) = self.tables.remove(&value)
                {
                    program.tables.push(table);
                    Place::Table(program.tables.len() as u32 - 1)
                } else if let Some(tensor) = self.bound.get(&value) {
                    program.bound.push(tensor.clone());
                    Place::Bound(program.bound.len() as u32 - 1)
                } else {
                    Place::Input(value)
                }
            })
        };
        for (_, first, spec, chain, ends) in kept {
            let inputs = description.nodes[first as usize].inputs.iter().enumerate();
            let inputs = inputs
                .map(|(i, value)| place(*value, Role::of(spec.op, i), &mut program))
                .collect();
            let residual = chain.residual.map(|value| place(value, Role::Anything, &mut program));
            let fused = Fused {
                activation: chain.activation,
                residual,
            };
            let step = Step {
                node: first,
                spec,
                inputs,
                fused: (fused.activation != Default::default() || residual.is_some()).then_some(fused),
                last_uses: ends.iter().filter_map(|value| step_of.get(value).copied()).collect(),
            };
            program.steps.push(step);
        }
        for value in &description.outputs {
            let output = place(*value, Role::Anything, &mut program);
            program.outputs.push(output);
        }
        program
    }
}

/// What a node does with an input.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    /// Looks rows up in it.
    Rows,
    /// Multiplies by it.
    Product,
    Anything,
}

impl Role {
    fn of(op: Op, input: usize) -> Self {
        match (op, input) {
            (Op::Embedding, 0) => Self::Rows,
            (Op::Linear, 1) => Self::Product,
            _ => Self::Anything,
        }
    }
}

/// How a program uses a weight.
#[derive(Clone, Copy, Default)]
struct Use {
    rows: bool,
    product: bool,
    anything: bool,
}

struct Uses {
    weights: Vec<Use>,
}

impl Uses {
    /// On a device (`remote`) every weight is a tensor: packed matrices and tables in files are the processor's.
    fn of(description: &Description, remote: bool) -> Self {
        let first = description.inputs.len();
        let mut weights = vec![Use::default(); description.weights.len()];
        let mut note = |value: u32, role: Role| {
            let at = (value as usize).checked_sub(first);
            let (Some(uses), Some(weight)) = (
                at.and_then(|at| weights.get_mut(at)),
                at.and_then(|at| description.weights.get(at)),
            ) else {
                return;
            };
            match role {
                _ if remote => uses.anything = true,
                Role::Rows => uses.rows = true,
                // There is a kernel for f32 alone.
                Role::Product if weight.dtype == DType::F32 => uses.product = true,
                _ => uses.anything = true,
            }
        };
        for node in &description.nodes {
            let op = resolve(&node.op).map(|spec| spec.op);
            for (i, value) in node.inputs.iter().enumerate() {
                note(*value, op.as_ref().map_or(Role::Anything, |op| Role::of(*op, i)));
            }
        }
        for value in &description.outputs {
            note(*value, Role::Anything);
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
    executor: Option<&Arc<Executor>>,
) -> Result<Option<Tensor>, Error> {
    let inputs: Option<SmallVec<[&Tensor; 4]>> = node.inputs.iter().map(|value| bound.get(value)).collect();
    if spec.op == Op::CachedAttention {
        return Ok(None);
    }
    let symbolic = |attr: &Attr| matches!(attr, Attr::Dims(dims) if dims.iter().any(|dim| dim.as_constant().is_none()));
    let Some(inputs) = inputs.filter(|_| !node.attrs.iter().any(symbolic)) else {
        return Ok(None);
    };
    let attrs = concrete(&node.attrs, &[])?;
    let attrs = attrs.as_deref().unwrap_or(&node.attrs);
    let types: SmallVec<[&Type<u32>; 4]> = inputs.iter().map(|input| &input.ty).collect();
    let ty = spec.infer_refs(&types, attrs)?;
    let operands: SmallVec<[Operand<'_>; 4]> = inputs.iter().map(|input| input.operand()).collect();
    let cost = match executor {
        None => spec.cost(&operands, attrs, &ty),
        Some(_) => cuda::cost(spec, &operands, attrs, &ty),
    };
    if !room.take(&cost) {
        return Ok(None);
    }
    let elements = match executor {
        None => {
            let list = inputs.iter().map(|input| input.here());
            let list: SmallVec<[&candle_core::Tensor; 4]> = list.collect::<Result<_, _>>()?;
            Elements::Here(guard(spec, || kernels::run(spec, &list, attrs, &ty, &Buffers::none()))?)
        }
        Some(executor) => {
            let first = inputs.first().map(|first| (&first.ty, first.strides()));
            let strides = match first {
                Some(first) if cost.shares => shared_strides(spec, attrs, first, &ty),
                _ => row_major(&ty.shape),
            };
            let slots = inputs.iter().map(|input| Ok(Arc::clone(&input.there()?.slot)));
            let slots: SmallVec<[Arc<Slot>; 4]> = slots.collect::<Result<_, Error>>()?;
            let (attrs, out) = (attrs.to_vec(), ty.clone());
            let slot = executor.make(Owner::Program, move |turn| {
                let values = slots.iter().map(|slot| slot.get());
                let values: SmallVec<[&Value; 4]> = values.collect::<Result<_, _>>()?;
                guard(spec, || cuda::run(spec, &values, &attrs, &out, turn))
            })?;
            Elements::There(Box::new(Remote { slot, strides }))
        }
    };
    let owner = match (cost.shares, inputs.first()) {
        (true, Some(first)) => first.owner.clone(),
        _ => Owner::Program,
    };
    Ok(Some(Tensor { elements, ty, owner }))
}

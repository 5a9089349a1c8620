//! Programs: a recorded graph bound to weights, compiled once, and run with one call.
//!
//! Compiling checks every type, binds the weights and folds what depends on constants alone. The first run at given dimensions
//! makes a plan (each node's concrete type and attributes, the peak of memory); later runs at those dimensions only follow it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use maquette_ops::program::{Description, Node, WeightRef, located};
use maquette_ops::{Attr, Dim, Error, Op, OpId, OpSpec, Type, lookup, show, spec};
use rayon::prelude::*;
use smallvec::SmallVec;

use crate::WeightStore;
use crate::budget::Charge;
use crate::kernels;
use crate::safetensors::WeightFile;
use crate::scope::{Scope, guard};
use crate::tensor::{self, Owner, Tensor};

/// Folded values larger than this are computed in every run instead of being kept.
const MAX_FOLDED_BYTES: u64 = 1 << 20;

/// Plans kept for each program; a program that is run at more dimensions than this plans again.
const MAX_PLANS: usize = 256;

/// What one run costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramCost {
    /// Floating-point operations, a multiply-add counted as two.
    pub flops: u64,
    /// The most bytes of tensors and temporaries alive at once; inputs and weights are not counted.
    pub peak_bytes: u64,
}

/// A compiled program, bound to weights.
#[derive(Debug)]
pub struct Program {
    digest: String,
    description: Description,
    /// Weights, constants and folded values, by value number.
    bound: HashMap<u32, Tensor>,
    /// Weights that are only looked rows up in: they stay in their file.
    tables: HashMap<u32, Table>,
    /// The nodes that a run executes, in order.
    steps: Vec<Step>,
    plans: Mutex<HashMap<SmallVec<[u32; 8]>, Arc<Plan>>>,
}

#[derive(Debug)]
struct Step {
    node: usize,
    spec: &'static OpSpec,
    /// Values that no later step and no output needs.
    last_uses: SmallVec<[u32; 2]>,
}

/// A program at given dimensions.
#[derive(Debug)]
struct Plan {
    /// For each step, its output's type and its attributes without symbols.
    steps: Vec<(Type<u32>, Vec<Attr>)>,
    outputs: Vec<Type<u32>>,
    cost: ProgramCost,
}

impl Program {
    fn compile(
        digest: String,
        description: &Description,
        files: &BTreeMap<String, Arc<WeightFile>>,
        weights: &WeightStore,
    ) -> Result<Self, Error> {
        description.check()?;
        let mut bound = HashMap::new();
        let mut tables = HashMap::new();
        let mut loads = Vec::new();
        let mut next = description.inputs.len() as u32;
        for weight in &description.weights {
            let names: Vec<_> = files.keys().map(String::as_str).collect();
            let file = files.get(&weight.file).ok_or_else(|| {
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
            match Table::of(file, weight, next, description)? {
                Some(table) => drop(tables.insert(next, table)),
                None => loads.push((next, file, weight)),
            }
            next += 1;
        }
        // Copying weights out of their files is most of a first call: every core takes part.
        let loaded = loads
            .par_iter()
            .map(|(value, file, weight)| Ok((*value, weights.get(file, &weight.name, Some(weight.dtype))?)));
        bound.extend(loaded.collect::<Result<Vec<_>, Error>>()?);
        for constant in &description.constants {
            let inner = tensor::from_bytes(constant.dtype, &constant.shape, &constant.data)?;
            let ty = Type::new(constant.dtype, constant.shape.iter().copied());
            bound.insert(
                next,
                Tensor {
                    inner,
                    ty,
                    owner: Owner::Program,
                },
            );
            next += 1;
        }
        let mut nodes = Vec::with_capacity(description.nodes.len());
        for (i, node) in description.nodes.iter().enumerate() {
            let value = next + i as u32;
            let spec = resolve(&node.op)?;
            if let Some(folded) = fold(spec, node, &bound).map_err(|e| located(i, node, e))? {
                bound.insert(value, folded);
            } else {
                nodes.push((i, spec));
            }
        }
        let steps = schedule(description, &nodes, &bound);
        // What only folded nodes used is not needed any more.
        let used: std::collections::HashSet<u32> = nodes
            .iter()
            .flat_map(|(i, _)| description.nodes[*i].inputs.iter())
            .chain(&description.outputs)
            .copied()
            .collect();
        bound.retain(|value, _| used.contains(value));
        Ok(Self {
            digest,
            description: description.clone(),
            bound,
            tables,
            steps,
            plans: Mutex::default(),
        })
    }

    /// The digest of its description.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What a run costs for inputs of these shapes.
    ///
    /// # Errors
    /// `shape` if the inputs do not fit.
    pub fn cost(&self, shapes: &[&[u32]]) -> Result<ProgramCost, Error> {
        let symbols = self.bind(shapes.iter().copied())?;
        Ok(self.plan(&symbols)?.cost)
    }

    /// Runs the program: memory is paid for as a whole before anything runs.
    ///
    /// # Errors
    /// `shape`, `dtype` if the inputs do not fit; `quota`; `timeout` and `cancelled` between nodes; what a node's op says,
    /// with the node's place.
    pub fn run(&self, scope: &Scope, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Error> {
        let started = Instant::now();
        let symbols = self.bind(inputs.iter().map(|input| input.shape()))?;
        for (input, expected) in inputs.iter().zip(&self.description.inputs) {
            if input.dtype() != expected.dtype {
                return Err(Error::dtype(format!(
                    "input `{}` is {}; the program expects {}",
                    expected.name,
                    input.dtype(),
                    expected.dtype
                )));
            }
        }
        let plan = self.plan(&symbols)?;
        let peak = scope.budget().charge(plan.cost.peak_bytes)?;
        let mut values: HashMap<u32, candle_core::Tensor> = HashMap::with_capacity(self.steps.len());
        let leaves = self.description.leaves() as u32;
        let mut done = 0;
        let result: Result<(), Error> = (|| {
            for (step, (ty, attrs)) in self.steps.iter().zip(&plan.steps) {
                scope.control().check(Instant::now())?;
                let node = &self.description.nodes[step.node];
                let table = node.inputs.first().and_then(|value| self.tables.get(value));
                let output = if let (Some(table), [_, ids]) = (table, node.inputs.as_slice()) {
                    let ids = self.value(*ids, inputs, &values)?;
                    table.rows(ids, ty).map_err(|e| located(step.node, node, e))?
                } else {
                    let mut list: SmallVec<[&candle_core::Tensor; 4]> = SmallVec::with_capacity(node.inputs.len());
                    for value in &node.inputs {
                        list.push(self.value(*value, inputs, &values)?);
                    }
                    guard(step.spec, || kernels::run(step.spec, &list, attrs, ty))
                        .map_err(|e| located(step.node, node, e))?
                };
                values.insert(leaves + step.node as u32, output);
                for value in &step.last_uses {
                    values.remove(value);
                }
                done += 1;
            }
            Ok(())
        })();
        scope.count(|stats| {
            stats.ops += done;
            stats.program_runs += 1;
            stats.compute += started.elapsed();
        });
        result?;
        self.outputs(scope, inputs, &values, &plan, peak)
    }

    /// Hands the outputs over to the scope, each with a charge of its own.
    fn outputs(
        &self,
        scope: &Scope,
        inputs: &[&Tensor],
        values: &HashMap<u32, candle_core::Tensor>,
        plan: &Plan,
        peak: Charge,
    ) -> Result<Vec<Tensor>, Error> {
        // An output may be a view of something larger that nobody else pays for: it is copied down to itself.
        let mut outputs = Vec::with_capacity(self.description.outputs.len());
        for (value, ty) in self.description.outputs.iter().zip(&plan.outputs) {
            let inner = self.value(*value, inputs, values)?;
            let whole = inner.is_contiguous() && inner.storage_and_layout().1.start_offset() == 0;
            let inner = if whole {
                inner.clone()
            } else {
                inner
                    .force_contiguous()
                    .map_err(|e| Error::internal(format!("an output of the program: {}", tensor::said(&e))))?
            };
            outputs.push((inner, ty.clone()));
        }
        drop(peak);
        let budget = scope.budget();
        outputs
            .into_iter()
            .map(|(inner, ty)| {
                let charge = budget.charge(ty.bytes())?;
                Ok(scope.adopt(inner, ty, charge))
            })
            .collect()
    }

    fn value<'a>(
        &'a self,
        value: u32,
        inputs: &[&'a Tensor],
        values: &'a HashMap<u32, candle_core::Tensor>,
    ) -> Result<&'a candle_core::Tensor, Error> {
        let found = match inputs.get(value as usize) {
            Some(input) => Some(&input.inner),
            None => values
                .get(&value)
                .or_else(|| self.bound.get(&value).map(|tensor| &tensor.inner)),
        };
        found.ok_or_else(|| Error::internal(format!("value {value} of the program is not there")))
    }

    /// The values of the symbols, from the shapes of the inputs.
    fn bind<'a>(&self, shapes: impl ExactSizeIterator<Item = &'a [u32]> + Clone) -> Result<SmallVec<[u32; 8]>, Error> {
        let expected = &self.description.inputs;
        if shapes.len() != expected.len() {
            return Err(Error::shape(format!(
                "{} inputs were given; the program takes {}",
                shapes.len(),
                expected.len()
            )));
        }
        let mut symbols: SmallVec<[u32; 8]> = SmallVec::from_elem(0, self.description.symbols.len());
        for (shape, input) in shapes.clone().zip(expected) {
            for (dim, given) in input.shape.iter().zip(shape) {
                if let Some(symbol) = dim.as_symbol().and_then(|symbol| symbols.get_mut(symbol as usize)) {
                    *symbol = *given;
                }
            }
        }
        for (shape, input) in shapes.zip(expected) {
            let wanted = input
                .shape
                .iter()
                .map(|dim| dim.eval(&symbols))
                .collect::<Result<SmallVec<[u32; 8]>, _>>()?;
            if *wanted != *shape {
                let names = &self.description.symbols;
                let shown: Vec<_> = input
                    .shape
                    .iter()
                    .map(|dim| dim.display_with(names).to_string())
                    .collect();
                return Err(Error::shape(format!(
                    "input `{}` is {}; the program expects [{}], which is {} here",
                    input.name,
                    show(shape),
                    shown.join(", "),
                    show(&wanted)
                )));
            }
        }
        Ok(symbols)
    }

    fn plan(&self, symbols: &SmallVec<[u32; 8]>) -> Result<Arc<Plan>, Error> {
        if let Some(plan) = lock(&self.plans).get(symbols) {
            return Ok(Arc::clone(plan));
        }
        let plan = Arc::new(self.make_plan(symbols)?);
        let mut plans = lock(&self.plans);
        if plans.len() >= MAX_PLANS {
            plans.clear();
        }
        plans.insert(symbols.clone(), Arc::clone(&plan));
        Ok(plan)
    }

    fn make_plan(&self, symbols: &[u32]) -> Result<Plan, Error> {
        let leaves = self.description.leaves() as u32;
        let mut types: HashMap<u32, Type<u32>> = HashMap::new();
        for (i, input) in self.description.inputs.iter().enumerate() {
            let shape = input
                .shape
                .iter()
                .map(|dim| dim.eval(symbols))
                .collect::<Result<Vec<_>, _>>()?;
            types.insert(i as u32, Type::new(input.dtype, shape));
        }
        types.extend(self.bound.iter().map(|(value, tensor)| (*value, tensor.ty.clone())));
        types.extend(self.tables.iter().map(|(value, table)| (*value, table.ty.clone())));

        let mut steps = Vec::with_capacity(self.steps.len());
        let (mut flops, mut live, mut peak) = (0_u64, 0_u64, 0_u64);
        // A view keeps the memory under it: what a value costs is given back when the last value over that memory goes.
        let mut memory: HashMap<u32, Arc<u64>> = HashMap::new();
        for step in &self.steps {
            let node = &self.description.nodes[step.node];
            let value = leaves + step.node as u32;
            let place = |e| located(step.node, node, e);
            let attrs = concrete(&node.attrs, symbols).map_err(place)?;
            let (ty, cost) = {
                let inputs = node
                    .inputs
                    .iter()
                    .map(|input| types.get(input))
                    .collect::<Option<SmallVec<[_; 4]>>>();
                let inputs = inputs.ok_or_else(|| Error::internal("a value of the program has no type"))?;
                let ty = step.spec.infer_refs(&inputs, &attrs).map_err(place)?;
                let cost = step.spec.cost(&inputs, &ty);
                (ty, cost)
            };
            flops = flops.saturating_add(cost.flops);
            let shared = if step.spec.is_view() {
                node.inputs.first().and_then(|input| memory.get(input))
            } else {
                None
            };
            let owned = match shared {
                Some(shared) => Arc::clone(shared),
                None if step.spec.is_view() => Arc::new(0),
                None => {
                    live = live.saturating_add(ty.bytes());
                    Arc::new(ty.bytes())
                }
            };
            peak = peak.max(live.saturating_add(cost.temporary_bytes));
            memory.insert(value, owned);
            for gone in &step.last_uses {
                if let Some(bytes) = memory.remove(gone).and_then(Arc::into_inner) {
                    live = live.saturating_sub(bytes);
                }
            }
            types.insert(value, ty.clone());
            steps.push((ty, attrs));
        }
        let outputs = self
            .description
            .outputs
            .iter()
            .map(|value| types.get(value).cloned())
            .collect::<Option<Vec<_>>>();
        let outputs = outputs.ok_or_else(|| Error::internal("an output of the program has no type"))?;
        let copies = outputs.iter().map(Type::bytes).fold(0_u64, u64::saturating_add);
        let peak_bytes = peak.max(live.saturating_add(copies));
        Ok(Plan {
            steps,
            outputs,
            cost: ProgramCost { flops, peak_bytes },
        })
    }
}

/// A matrix of weights in its file, from which rows are copied as they are needed.
#[derive(Debug)]
struct Table {
    file: Arc<WeightFile>,
    name: String,
    ty: Type<u32>,
}

impl Table {
    /// The weight as a table, if rows of it are all that the program needs and they are stored as they are used.
    fn of(
        file: &Arc<WeightFile>,
        weight: &WeightRef,
        value: u32,
        description: &Description,
    ) -> Result<Option<Self>, Error> {
        let as_table = |node: &Node| {
            let uses = node.inputs.iter().filter(|input| **input == value).count();
            uses == 0 || (uses == 1 && node.op == "embedding/1" && node.inputs[0] == value)
        };
        let only = description.nodes.iter().all(as_table) && !description.outputs.contains(&value);
        if !only
            || file.natural(&weight.name)? != weight.dtype
            || file.stored(&weight.name)?.len() as u64 != bytes(weight)
        {
            return Ok(None);
        }
        let ty = Type::new(weight.dtype, weight.shape.iter().copied());
        Ok(Some(Self {
            file: Arc::clone(file),
            name: weight.name.clone(),
            ty,
        }))
    }

    /// What `embedding/1` returns.
    fn rows(&self, ids: &candle_core::Tensor, ty: &Type<u32>) -> Result<candle_core::Tensor, Error> {
        let fail = |e: candle_core::Error| Error::internal(format!("embedding/1: {}", tensor::said(&e)));
        let (rows, width) = (
            self.ty.shape[0] as usize,
            self.ty.shape[1] as usize * self.ty.dtype.size(),
        );
        let ids = ids
            .flatten_all()
            .and_then(|ids| ids.to_dtype(candle_core::DType::I64))
            .map_err(fail)?;
        let ids = ids.to_vec1::<i64>().map_err(fail)?;
        let stored = self.file.stored(&self.name)?;
        let mut bytes = Vec::with_capacity(ids.len() * width);
        for (at, id) in ids.iter().enumerate() {
            let row = usize::try_from(*id).ok().filter(|row| *row < rows).ok_or_else(|| {
                Error::invalid_input(format!("embedding/1: id {id} at place {at} is not below {rows}"))
            })?;
            bytes.extend_from_slice(&stored[row * width..(row + 1) * width]);
        }
        tensor::from_bytes(ty.dtype, &ty.shape, &bytes)
    }
}

/// The bytes of a weight as the program uses it.
fn bytes(weight: &WeightRef) -> u64 {
    Type::new(weight.dtype, weight.shape.iter().copied()).bytes()
}

fn resolve(name: &str) -> Result<&'static OpSpec, Error> {
    let OpId(id) = lookup(name)?;
    spec(OpId(id)).ok_or_else(|| Error::internal("an op left the table"))
}

/// Attributes without symbols.
fn concrete(attrs: &[Attr], symbols: &[u32]) -> Result<Vec<Attr>, Error> {
    let number = |dim: &Dim| Ok(i64::from(dim.eval(symbols)?));
    let each = attrs.iter().map(|attr| match attr {
        Attr::Dims(dims) => Ok(Attr::Ints(dims.iter().map(number).collect::<Result<_, Error>>()?)),
        other => Ok(other.clone()),
    });
    each.collect()
}

/// Computes a node that depends on bound values alone, if its result is small and has no symbols.
fn fold(spec: &'static OpSpec, node: &Node, bound: &HashMap<u32, Tensor>) -> Result<Option<Tensor>, Error> {
    let inputs: Option<SmallVec<[&Tensor; 4]>> = node.inputs.iter().map(|value| bound.get(value)).collect();
    let symbolic = |attr: &Attr| matches!(attr, Attr::Dims(dims) if dims.iter().any(|dim| dim.as_constant().is_none()));
    let Some(inputs) = inputs.filter(|_| !node.attrs.iter().any(symbolic)) else {
        return Ok(None);
    };
    let attrs = concrete(&node.attrs, &[])?;
    let types: SmallVec<[&Type<u32>; 4]> = inputs.iter().map(|input| &input.ty).collect();
    let ty = spec.infer_refs(&types, &attrs)?;
    let shares = spec.is_view() || spec.op == Op::Reshape;
    if !shares && ty.bytes().saturating_add(spec.cost(&types, &ty).temporary_bytes) > MAX_FOLDED_BYTES {
        return Ok(None);
    }
    let list: SmallVec<[&candle_core::Tensor; 4]> = inputs.iter().map(|input| &input.inner).collect();
    let inner = guard(spec, || kernels::run(spec, &list, &attrs, &ty))?;
    let owner = if shares {
        inputs[0].owner.clone()
    } else {
        Owner::Program
    };
    Ok(Some(Tensor { inner, ty, owner }))
}

/// The order of steps is the guest's; what is added is when each value is no longer needed.
fn schedule(description: &Description, nodes: &[(usize, &'static OpSpec)], bound: &HashMap<u32, Tensor>) -> Vec<Step> {
    let leaves = description.leaves() as u32;
    let mut needed: std::collections::HashSet<u32> = description.outputs.iter().copied().collect();
    let mut steps: Vec<Step> = Vec::with_capacity(nodes.len());
    for (node, spec) in nodes.iter().rev() {
        let value = leaves + *node as u32;
        if !needed.contains(&value) {
            // Nothing uses it.
            continue;
        }
        let mut last_uses = SmallVec::new();
        for input in &description.nodes[*node].inputs {
            if *input >= leaves && !bound.contains_key(input) && needed.insert(*input) {
                last_uses.push(*input);
            }
        }
        steps.push(Step {
            node: *node,
            spec,
            last_uses,
        });
    }
    steps.reverse();
    steps
}

type Key = (String, Vec<String>);

#[derive(Debug, Default)]
struct Cached {
    programs: HashMap<Key, (Arc<Program>, u64)>,
    clock: u64,
}

/// The compiled programs of a process, by the digest of their description and the digests of the weight files.
#[derive(Debug)]
pub struct ProgramCache {
    capacity: usize,
    cached: Mutex<Cached>,
    weights: Arc<WeightStore>,
}

impl ProgramCache {
    pub(crate) fn new(capacity: usize, weights: Arc<WeightStore>) -> Self {
        Self {
            capacity: capacity.max(1),
            cached: Mutex::default(),
            weights,
        }
    }

    /// A program compiled before, if it is still cached.
    pub fn find(&self, digest: &str, files: &BTreeMap<String, Arc<WeightFile>>) -> Option<Arc<Program>> {
        let mut cached = lock(&self.cached);
        cached.clock += 1;
        let now = cached.clock;
        let (program, used) = cached.programs.get_mut(&key(digest, files))?;
        *used = now;
        Some(Arc::clone(program))
    }

    /// Compiles a description, or finds it compiled.
    ///
    /// # Errors
    /// What is wrong with the description, or with how the weights fit it.
    pub fn compile(
        &self,
        description: &Description,
        files: &BTreeMap<String, Arc<WeightFile>>,
    ) -> Result<Arc<Program>, Error> {
        let digest = description.digest();
        if let Some(program) = self.find(&digest, files) {
            return Ok(program);
        }
        let program = Arc::new(Program::compile(digest.clone(), description, files, &self.weights)?);
        let mut cached = lock(&self.cached);
        cached.clock += 1;
        let now = cached.clock;
        if cached.programs.len() >= self.capacity {
            let oldest = cached
                .programs
                .iter()
                .min_by_key(|(_, (_, used))| *used)
                .map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                cached.programs.remove(&oldest);
            }
        }
        cached.programs.insert(key(&digest, files), (Arc::clone(&program), now));
        Ok(program)
    }
}

fn key(digest: &str, files: &BTreeMap<String, Arc<WeightFile>>) -> Key {
    (
        digest.to_owned(),
        files
            .iter()
            .map(|(name, file)| format!("{name}={}", file.digest()))
            .collect(),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

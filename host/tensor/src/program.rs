//! Programs: a recorded graph bound to weights, compiled once, and run with one call.
//!
//! Compiling checks every type, binds the weights and folds what depends on constants alone. The first run at given dimensions
//! makes a plan (each node's concrete type and attributes, the peak of memory); later runs at those dimensions only follow it.

mod cache;
mod compile;
mod fuse;
mod plan;
mod product;
mod remote;
mod table;

use std::sync::Arc;
use std::time::Instant;

use maquette_ops::program::{Description, located};
use maquette_ops::{Error, Op, OpSpec, attr_int, show};
use smallvec::SmallVec;

use crate::budget::Charge;
use crate::buffers::Buffers;
use crate::kernels::{self, pieces};
use crate::kv_cache::KvCache;
use crate::scope::{Scope, guard};
use crate::tensor::{Tensor, stored_elements};
use crate::work;

pub use cache::ProgramCache;
use fuse::Fused;
use plan::{Plan, Planned, Plans};
use product::Right;
use table::Table;

/// Floating-point operations from which on a run keeps the team of threads for itself.
const WORTH_A_TEAM: u64 = 100_000;

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
    /// Weights, constants and folded values.
    bound: Vec<Tensor>,
    /// Weights that rows are looked up in: they stay in their file.
    tables: Vec<Table>,
    /// Weights of linear layers, packed.
    rights: Vec<Right>,
    /// The nodes that a run executes, in order.
    steps: Vec<Step>,
    /// Where each output is found.
    outputs: Vec<Place>,
    plans: Plans,
    /// Whether its weights are on a device, and its steps run there.
    remote: bool,
    /// Bytes that the program holds, weights and plans not counted.
    bytes: usize,
}

/// Where a value is found in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Among the inputs.
    Input(u32),
    /// Among the bound tensors.
    Bound(u32),
    /// Among the tables.
    Table(u32),
    /// Among the packed weights.
    Right(u32),
    /// The output of a step, by the step's number.
    Step(u32),
}

/// A node that a run executes.
#[derive(Debug)]
struct Step {
    node: u32,
    spec: &'static OpSpec,
    inputs: SmallVec<[Place; 3]>,
    /// What the step does beside its node: the nodes after it that it has taken over.
    fused: Option<Fused>,
    /// Steps whose outputs nothing after this one needs.
    last_uses: SmallVec<[u32; 2]>,
}

/// The tensors of a run: the outputs of its steps, as long as they are needed.
struct Values<'a> {
    program: &'a Program,
    inputs: &'a [candle_core::Tensor],
    steps: Vec<Option<candle_core::Tensor>>,
}

impl Values<'_> {
    fn get(&self, place: Place) -> Result<&candle_core::Tensor, Error> {
        let found = match place {
            Place::Input(at) => self.inputs.get(at as usize),
            Place::Bound(at) => self
                .program
                .bound
                .get(at as usize)
                .and_then(|tensor| tensor.here().ok()),
            Place::Step(at) => self.steps.get(at as usize).and_then(Option::as_ref),
            Place::Table(_) | Place::Right(_) => None,
        };
        found.ok_or_else(|| Error::internal("a value of the program is not there"))
    }
}

impl Program {
    /// The digest of its description.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it was compiled from.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// About how many bytes it holds, weights and plans not counted.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What a run costs for inputs of these shapes.
    ///
    /// # Errors
    /// `shape` if the inputs do not fit.
    pub fn cost(&self, shapes: &[&[u32]]) -> Result<ProgramCost, Error> {
        let symbols = self.bind(shapes.iter().copied())?;
        Ok(self.plan(&symbols)?.cost)
    }

    /// Runs a program that takes no caches.
    ///
    /// # Errors
    /// As [`Program::run_with`].
    pub fn run(self: &Arc<Self>, scope: &Scope, inputs: &[&Tensor]) -> Result<Vec<Tensor>, Error> {
        self.run_with(scope, inputs, &[])
    }

    /// Runs the program: memory is paid for as a whole before anything runs. What it appends to caches counts when all has
    /// succeeded; otherwise they hold what they held.
    ///
    /// # Errors
    /// `shape`, `dtype` if the inputs or the caches do not fit; `invalid-input` if a cache is full; `quota`; `timeout` and
    /// `cancelled`, between nodes and inside them; what a node's op says, with the node's place.
    pub fn run_with(
        self: &Arc<Self>,
        scope: &Scope,
        inputs: &[&Tensor],
        caches: &[&KvCache],
    ) -> Result<Vec<Tensor>, Error> {
        let now = Instant::now();
        scope.control().check(now)?;
        let started = work::clock(now);
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
        self.check_caches(caches)?;
        let plan = self.plan(&symbols)?;
        if let Some(executor) = scope.runtime().executor() {
            return self.run_remote(executor, scope, inputs, caches, plan);
        }
        for (cache, more) in caches.iter().zip(&plan.appended) {
            cache.reserve(*more)?;
        }
        let peak = scope
            .budget()
            .charge(plan.cost.peak_bytes)
            .map_err(|e| e.at("the program"))?;
        let control = scope.control();
        let (dense, _copies) = control.stoppable(|| dense(scope, inputs))?;
        let mut values = Values {
            program: self,
            inputs: &dense,
            steps: vec![None; self.steps.len()],
        };
        let mut done = 0;
        let buffers = Buffers::up_to(plan.cost.peak_bytes);
        let mut follow = || self.follow(scope, &plan, &mut values, caches, &buffers, &mut done);
        let result = control.stoppable(|| {
            if plan.cost.flops < WORTH_A_TEAM {
                follow()
            } else {
                maquette_kernels::team::engaged(follow)
            }
        });
        drop(buffers);
        let outputs = || self.outputs(scope, inputs, &values, &plan, peak);
        let outputs = result.and_then(|()| control.stoppable(outputs));
        if outputs.is_ok() {
            for (cache, more) in caches.iter().zip(&plan.appended) {
                cache.commit(*more);
            }
        }
        scope.count(|stats| {
            stats.ops += done;
            stats.program_runs += 1;
            stats.program_nodes += done;
            stats.compute += work::since(started);
        });
        outputs
    }

    fn check_caches(&self, caches: &[&KvCache]) -> Result<(), Error> {
        let expected = &self.description.caches;
        if caches.len() != expected.len() {
            return Err(Error::invalid_input(format!(
                "{} caches were given; the program takes {}",
                caches.len(),
                expected.len()
            )));
        }
        for (i, (cache, expected)) in caches.iter().zip(expected).enumerate() {
            if cache.spec() != *expected {
                return Err(Error::shape(format!(
                    "cache {i} is {:?}; the program expects {expected:?}",
                    cache.spec()
                )));
            }
            if caches[..i].iter().any(|other| std::ptr::eq(*other, *cache)) {
                return Err(Error::invalid_input(format!("cache {i} was given twice: fork it")));
            }
        }
        Ok(())
    }

    /// Executes the steps of a plan.
    fn follow(
        &self,
        scope: &Scope,
        plan: &Plan,
        values: &mut Values<'_>,
        caches: &[&KvCache],
        buffers: &Buffers,
        done: &mut u64,
    ) -> Result<(), Error> {
        for (i, (step, planned)) in self.steps.iter().zip(&plan.steps).enumerate() {
            scope.control().check(Instant::now())?;
            let node = &self.description.nodes[step.node as usize];
            let output = self.execute(step, planned, values, caches, buffers);
            values.steps[i] = Some(output.map_err(|e| located(step.node as usize, node, e))?);
            for gone in &step.last_uses {
                let value = values.steps[*gone as usize].take();
                if let Some(value) = value.filter(|_| planned.freed.contains(gone)) {
                    buffers.give(&value, planned.live);
                }
            }
            *done += 1;
        }
        Ok(())
    }

    fn execute(
        &self,
        step: &Step,
        planned: &Planned,
        values: &Values<'_>,
        caches: &[&KvCache],
        buffers: &Buffers,
    ) -> Result<candle_core::Tensor, Error> {
        match step.inputs.as_slice() {
            [Place::Table(table), ids] => return self.tables[*table as usize].rows(values.get(*ids)?, &planned.ty),
            [x, Place::Right(right), bias @ ..] => {
                let right = &self.rights[*right as usize];
                let bias = bias.first().map(|place| values.get(*place)).transpose()?;
                let residual = step.fused.and_then(|fused| fused.residual);
                let residual = residual.map(|place| values.get(place)).transpose()?;
                let activation = step.fused.map(|fused| fused.activation).unwrap_or_default();
                let x = values.get(*x)?;
                return guard(step.spec, || {
                    right.product(x, bias, activation, residual, &planned.ty, buffers)
                });
            }
            _ => {}
        }
        let mut list: SmallVec<[&candle_core::Tensor; 4]> = SmallVec::with_capacity(step.inputs.len());
        for place in &step.inputs {
            list.push(values.get(*place)?);
        }
        let node = &self.description.nodes[step.node as usize];
        let attrs = planned.attrs.as_deref().unwrap_or(&node.attrs);
        if step.spec.op == Op::CachedAttention {
            let number = |at: usize| attr_int(step.spec, attrs, at).and_then(|value| usize::try_from(value).ok());
            let lost = || Error::internal("a cache is not there");
            let cache = number(0).and_then(|at| caches.get(at)).ok_or_else(lost)?;
            let (layer, [_, k, v]) = (number(1).ok_or_else(lost)?, list.as_slice()) else {
                return Err(lost());
            };
            cache.append(layer, k, v)?;
            let keys = cache.len() as usize + k.dim(1).unwrap_or(0);
            return cache.with_pages(layer, |pages| {
                guard(step.spec, || {
                    kernels::cached_attention(step.spec, &list, attrs, &planned.ty, buffers, (pages, keys))
                })
            })?;
        }
        guard(step.spec, || {
            kernels::run(step.spec, &list, attrs, &planned.ty, buffers)
        })
    }

    /// Hands the outputs over to the scope, each with a charge of its own.
    fn outputs(
        &self,
        scope: &Scope,
        inputs: &[&Tensor],
        values: &Values<'_>,
        plan: &Plan,
        peak: Charge,
    ) -> Result<Vec<Tensor>, Error> {
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for (place, ty) in self.outputs.iter().zip(&plan.outputs) {
            let value = match *place {
                // Whoever paid for these goes on paying.
                Place::Input(at) => Output::Shared(inputs[at as usize].clone()),
                Place::Bound(at) => Output::Shared(self.bound[at as usize].clone()),
                place => {
                    let value = values.get(place)?;
                    let whole = value.is_contiguous() && stored_elements(value) as u64 == ty.elements();
                    Output::Own(if whole {
                        value.clone()
                    } else {
                        // It sees a part of something larger that nobody would pay for.
                        pieces::copied(value).map_err(Error::from)?
                    })
                }
            };
            outputs.push((value, ty));
        }
        drop(peak);
        let adopted = outputs.into_iter().map(|(value, ty)| match value {
            Output::Shared(tensor) => Ok(tensor),
            Output::Own(inner) => Ok(scope.adopt(inner, ty.clone(), scope.budget().charge(ty.bytes())?)),
        });
        adopted.collect()
    }

    /// The values of the symbols, from the shapes of the inputs.
    fn bind<'a>(&self, shapes: impl ExactSizeIterator<Item = &'a [u32]> + Clone) -> Result<Symbols, Error> {
        let expected = &self.description.inputs;
        if shapes.len() != expected.len() {
            return Err(Error::shape(format!(
                "{} inputs were given; the program takes {}",
                shapes.len(),
                expected.len()
            )));
        }
        let mut symbols = Symbols::from_elem(0, self.description.symbols.len());
        for (shape, input) in shapes.clone().zip(expected) {
            for (dim, given) in input.shape.iter().zip(shape) {
                if let Some(symbol) = dim.as_symbol().and_then(|symbol| symbols.get_mut(symbol as usize)) {
                    *symbol = *given;
                }
            }
        }
        for (shape, input) in shapes.zip(expected) {
            let wanted = input.shape.iter().map(|dim| dim.eval(&symbols));
            let wanted = wanted.collect::<Result<SmallVec<[u32; 8]>, _>>()?;
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

    fn plan(&self, symbols: &Symbols) -> Result<Arc<Plan>, Error> {
        if let Some(plan) = self.plans.get(symbols) {
            return Ok(plan);
        }
        let plan = Arc::new(Plan::new(self, symbols)?);
        self.plans.keep(symbols, &plan);
        Ok(plan)
    }
}

/// The value of each symbol.
type Symbols = SmallVec<[u32; 8]>;

/// An output on its way to the scope.
enum Output {
    /// An input or a bound tensor.
    Shared(Tensor),
    /// Computed by the run, in memory of its own.
    Own(candle_core::Tensor),
}

/// The inputs in row-major order, as plans expect them; copies are paid for.
fn dense(scope: &Scope, inputs: &[&Tensor]) -> Result<(SmallVec<[candle_core::Tensor; 4]>, Charge), Error> {
    let strided = |input: &&&Tensor| input.here().is_ok_and(|inner| !inner.is_contiguous());
    let strided = inputs.iter().filter(strided);
    let charge = scope.budget().charge(strided.map(|input| input.bytes()).sum())?;
    let mut copies = SmallVec::with_capacity(inputs.len());
    for input in inputs {
        copies.push(pieces::contiguous(input.here()?)?);
    }
    Ok((copies, charge))
}

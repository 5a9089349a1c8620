//! A program's run on a device: one job that follows the plan on the device's thread. It is waited for only if it appends to caches,
//! which grow when it has succeeded.

use std::sync::Arc;

use maquette_ops::program::located;
use maquette_ops::{Attr, Error, Op, OpSpec, attr_int};
use smallvec::SmallVec;

use super::plan::{Plan, Planned};
use super::{Place, Program, Step};
use crate::budget::Charge;
use crate::cuda::{self, Executor, Remote, Slot, Turn, Value};
use crate::kv_cache::{Growth, KvCache};
use crate::scope::{Scope, guard};
use crate::tensor::{Elements, Owner, Tensor, row_major, stored_elements};

/// A run on its way to the device.
struct Run {
    program: Arc<Program>,
    plan: Arc<Plan>,
    inputs: SmallVec<[Arc<Slot>; 4]>,
    bound: Vec<Arc<Slot>>,
    caches: Vec<Growth>,
}

impl Program {
    /// Sends a run and returns what it will leave. Memory is paid for first; what fails there is told by the first read.
    pub(super) fn run_remote(
        self: &Arc<Self>,
        executor: &Executor,
        scope: &Scope,
        inputs: &[&Tensor],
        caches: &[&KvCache],
        plan: Arc<Plan>,
    ) -> Result<Vec<Tensor>, Error> {
        let grown = caches.iter().zip(&plan.appended);
        let grown = grown.map(|(cache, more)| cache.grow(scope, executor, *more));
        let grown: Vec<Growth> = grown.collect::<Result<_, Error>>()?;
        let slot = |tensor: &Tensor| Ok(Arc::clone(&tensor.there()?.slot));
        let strided = inputs
            .iter()
            .filter(|input| input.strides() != &*row_major(input.shape()));
        let copies: u64 = strided.map(|input| input.bytes()).sum();
        let own = plan
            .cost
            .peak_bytes
            .saturating_add(copies)
            .saturating_add(self.seen_bytes(&plan, &grown));
        let mut peak = scope.charge_behind(executor, own).map_err(|e| e.at("the program"))?;
        // Where each output goes: what is a step's gets a part of the peak, or bytes of its own where two outputs are one value.
        let mut outputs = Vec::with_capacity(self.outputs.len());
        let mut computed: Vec<(u32, Arc<Slot>)> = Vec::new();
        for (place, ty) in self.outputs.iter().zip(&plan.outputs) {
            outputs.push(match *place {
                Place::Input(at) => inputs.get(at as usize).map(|input| (*input).clone()),
                Place::Bound(at) => self.bound.get(at as usize).cloned(),
                Place::Step(at) => {
                    let charge = match peak.split(ty.bytes()) {
                        Some(charge) => charge,
                        None => scope.charge_behind(executor, ty.bytes())?,
                    };
                    let owner = Owner::Budget(Arc::new(charge));
                    let slot = Slot::empty(owner.clone());
                    computed.push((at, Arc::clone(&slot)));
                    Some(Tensor {
                        elements: Elements::There(Box::new(Remote {
                            slot,
                            strides: row_major(&ty.shape),
                        })),
                        ty: ty.clone(),
                        owner,
                    })
                }
                Place::Table(_) | Place::Right(_) => None,
            });
        }
        let outputs: Option<Vec<Tensor>> = outputs.into_iter().collect();
        let outputs = outputs.ok_or_else(|| Error::internal("an output of the program is not there"))?;
        let run = Run {
            program: Arc::clone(self),
            plan,
            inputs: inputs.iter().map(|input| slot(input)).collect::<Result<_, Error>>()?,
            bound: self.bound.iter().map(slot).collect::<Result<_, Error>>()?,
            caches: grown.clone(),
        };
        let steps = self.steps.len() as u64;
        let job = move |turn: &Turn<'_>, go_on: Result<(), Error>| {
            let done = run.fill(turn, go_on, &computed);
            drop::<Charge>(peak);
            done
        };
        if caches.is_empty() {
            executor.enqueue(&scope.client(), move |turn, go_on| drop(job(turn, go_on)))?;
        } else {
            executor.ask(&scope.client(), move |turn| job(turn, Ok(())))?;
            for (cache, growth) in caches.iter().zip(grown) {
                cache.keep(growth);
            }
        }
        scope.count(|stats| {
            stats.ops += steps;
            stats.program_runs += 1;
            stats.program_nodes += steps;
        });
        Ok(outputs)
    }
}

impl Program {
    /// Bytes that attention to caches takes for a moment: how much they hold is not the plan's to know.
    fn seen_bytes(&self, plan: &Plan, caches: &[Growth]) -> u64 {
        let each = self.steps.iter().zip(&plan.steps).map(|(step, planned)| {
            let attrs = planned
                .attrs
                .as_deref()
                .unwrap_or(&self.description.nodes[step.node as usize].attrs);
            let growth = cache_of(step.spec, attrs).and_then(|(cache, _)| caches.get(cache));
            let (Some(growth), [_, t, heads, width]) = (growth, planned.ty.shape.as_slice()) else {
                return 0;
            };
            let rows = u64::from(*heads)
                .saturating_mul(u64::from(growth.end))
                .saturating_mul(4);
            // Scores in each of their forms; keys and values head by head, whose width is about that of the output.
            rows.saturating_mul(6 * u64::from(*t) + 8 * u64::from(*width) + 64)
        });
        each.max().unwrap_or(0)
    }
}

/// The cache and the layer that a step appends to.
fn cache_of(spec: &OpSpec, attrs: &[Attr]) -> Option<(usize, usize)> {
    let number = |at: usize| attr_int(spec, attrs, at).and_then(|value| usize::try_from(value).ok());
    match spec.op {
        Op::CachedAttention => Some((number(0)?, number(1)?)),
        _ => None,
    }
}

impl Run {
    /// Follows the plan and fills the outputs, each with its value or with why there is none.
    fn fill(&self, turn: &Turn<'_>, go_on: Result<(), Error>, outputs: &[(u32, Arc<Slot>)]) -> Result<(), Error> {
        let steps = go_on.and_then(|()| self.follow(turn));
        for (step, slot) in outputs {
            slot.fill(match &steps {
                Err(error) => Err(error.clone()),
                Ok(steps) => match steps.get(*step as usize).and_then(Option::as_ref) {
                    Some(value) => whole(value),
                    None => Err(lost()),
                },
            });
        }
        steps.map(drop)
    }

    /// Runs a step that appends to a layer of a cache, and fills the layer.
    fn append(
        &self,
        step: &Step,
        planned: &Planned,
        inputs: &[&Value],
        attrs: &[Attr],
        turn: &Turn<'_>,
    ) -> Result<Value, Error> {
        let (cache, layer) = cache_of(step.spec, attrs).ok_or_else(lost)?;
        let growth = self.caches.get(cache).ok_or_else(lost)?;
        let before = match growth.before.get(layer) {
            Some(before) => Some([before.keys.get()?, before.values.get()?]),
            None => None,
        };
        let len = growth.len as usize;
        let [value, keys, values] = guard(step.spec, || {
            cuda::cached_attention(step.spec, inputs, attrs, &planned.ty, turn, (before, len))
        })?;
        let after = growth.after.get(layer).ok_or_else(lost)?;
        after.keys.fill(Ok(keys));
        after.values.fill(Ok(values));
        Ok(value)
    }

    fn follow(&self, turn: &Turn<'_>) -> Result<Vec<Option<Value>>, Error> {
        let Self { program, plan, .. } = self;
        let fail = |e: candle_core::Error| cuda::failed("an input of the program", &e);
        let mut inputs: SmallVec<[Value; 4]> = SmallVec::with_capacity(self.inputs.len());
        for slot in &self.inputs {
            let value = slot.get()?;
            inputs.push(Value {
                tensor: value.tensor.contiguous().map_err(fail)?,
                range: value.range,
            });
        }
        let mut steps: Vec<Option<Value>> = vec![None; program.steps.len()];
        for (i, (step, planned)) in program.steps.iter().zip(&plan.steps).enumerate() {
            let node = &program.description.nodes[step.node as usize];
            let run = || {
                let mut list: SmallVec<[&Value; 4]> = SmallVec::with_capacity(step.inputs.len());
                for place in &step.inputs {
                    list.push(match *place {
                        Place::Input(at) => inputs.get(at as usize).ok_or_else(lost)?,
                        Place::Bound(at) => self.bound.get(at as usize).ok_or_else(lost)?.get()?,
                        Place::Step(at) => steps.get(at as usize).and_then(Option::as_ref).ok_or_else(lost)?,
                        Place::Table(_) | Place::Right(_) => return Err(lost()),
                    });
                }
                let attrs = planned.attrs.as_deref().unwrap_or(&node.attrs);
                match step.spec.op {
                    Op::CachedAttention => self.append(step, planned, &list, attrs, turn),
                    _ => guard(step.spec, || cuda::run(step.spec, &list, attrs, &planned.ty, turn)),
                }
            };
            let value = run().map_err(|e| located(step.node as usize, node, e))?;
            steps[i] = Some(value);
            for gone in &step.last_uses {
                steps[*gone as usize] = None;
            }
        }
        Ok(steps)
    }
}

/// The value in memory of its own: it may see a part of something larger that nobody would pay for.
fn whole(value: &Value) -> Result<Value, Error> {
    let tensor = &value.tensor;
    if tensor.is_contiguous() && stored_elements(tensor) == tensor.elem_count() {
        return Ok(value.clone());
    }
    if tensor.elem_count() == 0 {
        return Ok(value.clone());
    }
    let copy = tensor.force_contiguous();
    let tensor = copy.map_err(|e| cuda::failed("an output of the program", &e))?;
    Ok(Value {
        tensor,
        range: value.range,
    })
}

fn lost() -> Error {
    Error::internal("a value of the program is not there")
}

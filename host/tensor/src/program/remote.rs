//! A program's run on a device: one job that follows the plan on the device's thread.

use std::sync::Arc;

use maquette_ops::Error;
use maquette_ops::program::located;
use smallvec::SmallVec;

use super::plan::Plan;
use super::{Place, Program};
use crate::budget::Charge;
use crate::cuda::{self, Executor, Remote, Slot, Turn, Value};
use crate::scope::{Control, Scope, guard};
use crate::tensor::{Elements, Owner, Tensor, row_major, said, stored_elements};

/// A run on its way to the device.
struct Run {
    program: Arc<Program>,
    plan: Arc<Plan>,
    control: Control,
    inputs: SmallVec<[Arc<Slot>; 4]>,
    bound: Vec<Arc<Slot>>,
}

impl Program {
    /// Sends a run and returns what it will leave. Memory is paid for first; what fails there is told by the first read.
    pub(super) fn run_remote(
        self: &Arc<Self>,
        executor: &Executor,
        scope: &Scope,
        inputs: &[&Tensor],
        plan: Arc<Plan>,
    ) -> Result<Vec<Tensor>, Error> {
        let slot = |tensor: &Tensor| Ok(Arc::clone(&tensor.there()?.slot));
        let strided = inputs.iter().filter(|input| input.strides() != &*row_major(input.shape()));
        let copies: u64 = strided.map(|input| input.bytes()).sum();
        let mut peak = scope.charge_behind(executor, plan.cost.peak_bytes.saturating_add(copies))?;
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
                        elements: Elements::There(Remote {
                            slot,
                            strides: row_major(&ty.shape),
                        }),
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
            control: scope.control().clone(),
            inputs: inputs.iter().map(|input| slot(input)).collect::<Result<_, Error>>()?,
            bound: self.bound.iter().map(slot).collect::<Result<_, Error>>()?,
        };
        let steps = self.steps.len() as u64;
        executor.enqueue(&scope.client(), move |turn, go_on| {
            run.fill(turn, go_on, &computed);
            drop::<Charge>(peak);
        })?;
        scope.count(|stats| {
            stats.ops += steps;
            stats.program_runs += 1;
            stats.program_nodes += steps;
        });
        Ok(outputs)
    }
}

impl Run {
    /// Follows the plan and fills the outputs, each with its value or with why there is none.
    fn fill(&self, turn: &mut Turn<'_>, go_on: Result<(), Error>, outputs: &[(u32, Arc<Slot>)]) {
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
    }

    fn follow(&self, turn: &mut Turn<'_>) -> Result<Vec<Option<Value>>, Error> {
        let Self { program, plan, .. } = self;
        let fail = |e: candle_core::Error| Error::internal(format!("an input of the program: {}", said(&e)));
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
            self.control.check(std::time::Instant::now())?;
            let node = &program.description.nodes[step.node as usize];
            let mut run = || {
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
                let value = guard(step.spec, || cuda::run(step.spec, &list, attrs, &planned.ty, turn.device))?;
                turn.step()?;
                Ok(value)
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
    let tensor = copy.map_err(|e| Error::internal(format!("an output of the program: {}", said(&e))))?;
    Ok(Value {
        tensor,
        range: value.range,
    })
}

fn lost() -> Error {
    Error::internal("a value of the program is not there")
}

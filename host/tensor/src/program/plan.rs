//! A program at given dimensions: each step's output type and attributes, and the peak of memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maquette_ops::program::located;
use maquette_ops::{Attr, Dim, Error, Form, Op, Operand, Type, attr_int, check_shape};
use smallvec::SmallVec;

use super::{Place, Program, ProgramCost, Symbols};
use crate::cuda;
use crate::tensor::{row_major, shared_strides};

/// Steps of all kept plans of one program together; beyond, the plans are made anew.
const MAX_KEPT_STEPS: usize = 20_000;

/// A program at given dimensions.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Planned>,
    pub(super) outputs: Vec<Type<u32>>,
    pub(super) cost: ProgramCost,
    /// How many places a run appends to each cache.
    pub(super) appended: Vec<u32>,
}

/// A step at given dimensions.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) ty: Type<u32>,
    /// The attributes without symbols, where the description's have some.
    pub(super) attrs: Option<Vec<Attr>>,
    /// Steps whose outputs were the last to lie in their memory, which is free after this step.
    pub(super) freed: SmallVec<[u32; 2]>,
    /// Bytes in use after this step.
    pub(super) live: u64,
}

/// Plans made so far, by the values of the symbols.
#[derive(Debug, Default)]
pub(super) struct Plans(Mutex<HashMap<Symbols, Arc<Plan>>>);

impl Plans {
    fn lock(&self) -> MutexGuard<'_, HashMap<Symbols, Arc<Plan>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, symbols: &Symbols) -> Option<Arc<Plan>> {
        self.lock().get(symbols).cloned()
    }

    pub(super) fn keep(&self, symbols: &Symbols, plan: &Arc<Plan>) {
        let mut plans = self.lock();
        if (plans.len() + 1) * plan.steps.len().max(32) > MAX_KEPT_STEPS {
            plans.clear();
        }
        plans.insert(symbols.clone(), Arc::clone(plan));
    }
}

/// What is known of a value while a plan is made.
#[derive(Clone)]
struct Value {
    ty: Type<u32>,
    strides: SmallVec<[usize; 8]>,
    /// The memory that it lies in, if a run pays for it.
    memory: Option<usize>,
}

impl Value {
    /// In row-major order.
    fn dense(ty: Type<u32>, memory: Option<usize>) -> Self {
        Self {
            strides: row_major(&ty.shape),
            ty,
            memory,
        }
    }

    fn operand(&self) -> Operand<'_> {
        Operand {
            ty: &self.ty,
            form: Form::of(&self.ty.shape, &self.strides),
        }
    }
}

/// Memory in use while a plan is followed: what each piece takes, and how many values lie in it.
#[derive(Default)]
struct Ledger {
    pieces: Vec<(u64, u32)>,
    live: u64,
    peak: u64,
}

impl Ledger {
    fn take(&mut self, bytes: u64) -> usize {
        self.live = self.live.saturating_add(bytes);
        self.pieces.push((bytes, 1));
        self.pieces.len() - 1
    }

    fn share(&mut self, piece: Option<usize>) -> Option<usize> {
        self.pieces[piece?].1 += 1;
        piece
    }

    /// Returns whether the memory is free now.
    fn release(&mut self, piece: Option<usize>) -> bool {
        let Some(piece) = piece else { return false };
        let (bytes, values) = &mut self.pieces[piece];
        *values -= 1;
        if *values == 0 {
            self.live = self.live.saturating_sub(*bytes);
        }
        *values == 0
    }

    fn need(&mut self, bytes: u64) {
        self.peak = self.peak.max(self.live.saturating_add(bytes));
    }
}

impl Plan {
    pub(super) fn new(program: &Program, symbols: &[u32]) -> Result<Self, Error> {
        let mut inputs = Vec::with_capacity(program.description.inputs.len());
        for input in &program.description.inputs {
            let shape = input.shape.iter().map(|dim| dim.eval(symbols));
            let ty = Type::new(input.dtype, shape.collect::<Result<Vec<_>, _>>()?);
            check_shape(&ty.shape).map_err(|e| Error::shape(format!("input `{}`: {}", input.name, e.message)))?;
            inputs.push(Value::dense(ty, None));
        }
        let bound = program.bound.iter().map(|tensor| Value {
            ty: tensor.ty.clone(),
            strides: tensor.strides().into(),
            memory: None,
        });
        let bound: Vec<Value> = bound.collect();
        let tables = program.tables.iter().map(|table| Value::dense(table.ty.clone(), None));
        let tables: Vec<Value> = tables.collect();
        let rights = program.rights.iter().map(|right| Value::dense(right.ty.clone(), None));
        let rights: Vec<Value> = rights.collect();
        let mut appended = vec![0; program.description.caches.len()];

        let mut ledger = Ledger::default();
        let mut computed: Vec<Value> = Vec::with_capacity(program.steps.len());
        let mut steps = Vec::with_capacity(program.steps.len());
        let mut flops = 0_u64;
        for step in &program.steps {
            let node = &program.description.nodes[step.node as usize];
            let place = |e| located(step.node as usize, node, e);
            let resolved = concrete(&node.attrs, symbols).map_err(place)?;
            let attrs = resolved.as_deref().unwrap_or(&node.attrs);
            let (value, temporary_bytes) = {
                let find = |place: &Place| match *place {
                    Place::Input(at) => inputs.get(at as usize),
                    Place::Bound(at) => bound.get(at as usize),
                    Place::Table(at) => tables.get(at as usize),
                    Place::Right(at) => rights.get(at as usize),
                    Place::Step(at) => computed.get(at as usize),
                };
                let residual = step.fused.and_then(|fused| fused.residual);
                let residual = residual
                    .as_ref()
                    .and_then(find)
                    .filter(|value| value.operand().form != Form::Dense);
                let values: Option<SmallVec<[&Value; 4]>> = step.inputs.iter().map(find).collect();
                let values = values.ok_or_else(|| Error::internal("a value of the program has no type"))?;
                let types: SmallVec<[&Type<u32>; 4]> = values.iter().map(|value| &value.ty).collect();
                let ty = step.spec.infer_refs(&types, attrs).map_err(place)?;
                let operands: SmallVec<[Operand<'_>; 4]> = values.iter().map(|value| value.operand()).collect();
                let cost = match program.remote {
                    false => step.spec.cost(&operands, attrs, &ty),
                    true => cuda::cost(step.spec, &operands, attrs, &ty),
                };
                flops = flops.saturating_add(cost.flops);
                let mut temporary_bytes = cost.temporary_bytes;
                if let Some(Place::Right(at)) = step.inputs.get(1) {
                    let own = program.rights[*at as usize].temporary_bytes(types[0]);
                    temporary_bytes = temporary_bytes.saturating_add(own);
                    temporary_bytes = temporary_bytes.saturating_add(residual.map_or(0, |value| value.ty.bytes()));
                }
                if step.spec.op == Op::CachedAttention {
                    let at = attr_int(step.spec, attrs, 0).and_then(|at| usize::try_from(at).ok());
                    if let Some(more) = at.and_then(|at| appended.get_mut(at)) {
                        // Every layer of a cache must grow by as much, or they would hold different places.
                        let places = types[0].shape.get(1).copied().unwrap_or(0);
                        if *more != 0 && *more != places {
                            return Err(place(Error::shape(format!(
                                "{places} places are appended, where other layers of the cache have {more}"
                            ))));
                        }
                        *more = places;
                    }
                }
                let output = match values.first() {
                    Some(first) if cost.shares => Value {
                        strides: shared_strides(step.spec, attrs, (&first.ty, &first.strides), &ty),
                        ty,
                        memory: ledger.share(first.memory),
                    },
                    _ => {
                        let memory = Some(ledger.take(cost.output_bytes));
                        let mut value = Value::dense(ty, memory);
                        if step.spec.op == Op::Full && value.ty.elements() > 0 {
                            value.strides.fill(0);
                        }
                        value
                    }
                };
                (output, temporary_bytes)
            };
            ledger.need(temporary_bytes);
            let ty = value.ty.clone();
            computed.push(value);
            let mut freed = SmallVec::new();
            for gone in &step.last_uses {
                if ledger.release(computed[*gone as usize].memory) {
                    freed.push(*gone);
                }
            }
            steps.push(Planned {
                ty,
                attrs: resolved,
                freed,
                live: ledger.live,
            });
        }
        let mut outputs = Vec::with_capacity(program.outputs.len());
        let mut copies = 0_u64;
        for place in &program.outputs {
            let value = match *place {
                Place::Input(at) => inputs.get(at as usize),
                Place::Bound(at) => bound.get(at as usize),
                Place::Table(at) => tables.get(at as usize),
                Place::Right(at) => rights.get(at as usize),
                Place::Step(at) => computed.get(at as usize),
            };
            let value = value.ok_or_else(|| Error::internal("an output of the program has no type"))?;
            // Inputs and weights are handed on as they are. A computed output that sees a part of something larger, or a part
            // of an input, is copied out of it.
            let computed = matches!(place, Place::Step(_));
            let whole = value.operand().form == Form::Dense
                && value
                    .memory
                    .is_some_and(|piece| ledger.pieces[piece].0 == value.ty.bytes());
            if computed && !whole {
                copies = copies.saturating_add(value.ty.bytes());
            }
            outputs.push(value.ty.clone());
        }
        ledger.need(copies);
        Ok(Self {
            steps,
            outputs,
            cost: ProgramCost {
                flops,
                peak_bytes: ledger.peak,
            },
            appended,
        })
    }
}

/// Attributes without symbols, if some have any.
pub(super) fn concrete(attrs: &[Attr], symbols: &[u32]) -> Result<Option<Vec<Attr>>, Error> {
    if !attrs.iter().any(|attr| matches!(attr, Attr::Dims(_))) {
        return Ok(None);
    }
    let number = |dim: &Dim| Ok(i64::from(dim.eval(symbols)?));
    let each = attrs.iter().map(|attr| match attr {
        Attr::Dims(dims) => Ok(Attr::Ints(dims.iter().map(number).collect::<Result<_, Error>>()?)),
        other => Ok(other.clone()),
    });
    each.collect::<Result<_, _>>().map(Some)
}

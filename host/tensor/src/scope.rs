//! One call's world of tensors: uploads, eager ops and reads under one budget, one deadline, one flag to cancel.

mod remote;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use maquette_kernels::stop::Stopped;
use maquette_ops::program::Description;
use maquette_ops::{Attr, DType, Error, OpId, OpSpec, Operand, Type, check_shape, show, spec};
use smallvec::SmallVec;

use crate::budget::{Budget, Charge};
use crate::buffers::Buffers;
use crate::control::Control;
use crate::cuda::Client;
use crate::kernels;
use crate::program::Program;
use crate::runtime::Runtime;
use crate::tensor::{self, Elements, Owner, Tensor};
use crate::weight_file::WeightFile;
use crate::work;

/// What a scope has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Ops run, those of programs included.
    pub ops: u64,
    /// Programs run.
    pub program_runs: u64,
    /// Ops run inside programs.
    pub program_nodes: u64,
    /// Wall time inside ops and programs, those that failed or were left included, without what the thread has waited at its
    /// [gate](crate::gate); on a device, what its thread has spent on this scope's jobs.
    pub compute: Duration,
    /// Wall time of loading and packing weights and of compiling programs; none of it is in `compute`.
    pub load: Duration,
    /// Bytes uploaded by guests.
    pub uploaded_bytes: u64,
    /// Bytes read by guests.
    pub read_bytes: u64,
}

/// One call's world of tensors. Used by one thread at a time.
#[derive(Debug)]
pub struct Scope {
    runtime: Arc<Runtime>,
    budget: Arc<Budget>,
    control: Control,
    stats: Cell<Stats>,
    /// Nanoseconds that a device's thread has spent on this scope, if there is one.
    spent: Option<Arc<AtomicU64>>,
    owner: Arc<str>,
}

impl Scope {
    /// A scope on a runtime, under a budget.
    pub fn new(runtime: Arc<Runtime>, budget: Arc<Budget>, control: Control) -> Self {
        let spent = runtime.executor().map(|_| Arc::default());
        Self {
            runtime,
            budget,
            control,
            stats: Cell::default(),
            spent,
            owner: Arc::from(""),
        }
    }

    /// Whose programs it compiles and finds: no owner sees what another has compiled, or can push it out of the cache.
    #[must_use]
    pub fn owned_by(self, owner: Arc<str>) -> Self {
        Self { owner, ..self }
    }

    /// The runtime underneath.
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// The budget.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// The scope as a device's thread knows it.
    pub(crate) fn client(&self) -> Client {
        Client {
            control: self.control.clone(),
            spent: self.spent.clone().unwrap_or_default(),
        }
    }

    /// What it has done so far.
    pub fn stats(&self) -> Stats {
        let mut stats = self.stats.get();
        if let Some(spent) = &self.spent {
            stats.compute += Duration::from_nanos(spent.load(Ordering::Relaxed));
        }
        stats
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Stats)) {
        let mut stats = self.stats.get();
        change(&mut stats);
        self.stats.set(stats);
    }

    /// Uploads elements: row-major, little-endian.
    ///
    /// # Errors
    /// `shape` if the shape is not allowed or the bytes are not as many as it takes; `quota`; `timeout` or `cancelled` in the middle of
    /// many.
    pub fn from_bytes(&self, dtype: DType, shape: &[u32], bytes: &[u8]) -> Result<Tensor, Error> {
        check_shape(shape)?;
        let ty = Type::new(dtype, shape.iter().copied());
        if ty.bytes() != bytes.len() as u64 {
            return Err(Error::shape(format!(
                "{} bytes were given for {dtype}{}, which takes {}",
                bytes.len(),
                show(shape),
                ty.bytes()
            )));
        }
        if let Some(executor) = self.runtime.executor() {
            return self.upload(executor, ty, bytes);
        }
        let charge = self.budget.charge(ty.bytes()).map_err(|e| e.at(&ty))?;
        let inner = self.control.stoppable(|| tensor::from_bytes(dtype, shape, bytes))?;
        self.count(|stats| stats.uploaded_bytes += bytes.len() as u64);
        Ok(Tensor {
            elements: Elements::Here(inner),
            ty,
            owner: Owner::Budget(Arc::new(charge)),
        })
    }

    /// Applies an op. Everything is checked, and paid for, before anything is allocated.
    ///
    /// On a device the op is sent there and not waited for: what only its elements can tell, such as an id out of range, is told by
    /// the first read of what was made of them.
    ///
    /// # Errors
    /// `unsupported` if the op has no implementation for the device.
    /// As the op's rule says; `quota`, `timeout`, `cancelled`; `internal` if a kernel fails all the same.
    pub fn apply(&self, op: OpId, inputs: &[&Tensor], attrs: &[Attr]) -> Result<Tensor, Error> {
        let now = Instant::now();
        self.control.check(now)?;
        let started = work::clock(now);
        let output = self.apply_checked(op, inputs, attrs);
        if self.runtime.executor().is_none() {
            self.count(|stats| {
                stats.ops += u64::from(output.is_ok());
                stats.compute += work::since(started);
            });
        }
        output
    }

    fn apply_checked(&self, op: OpId, inputs: &[&Tensor], attrs: &[Attr]) -> Result<Tensor, Error> {
        let spec = spec(op).ok_or_else(|| Error::unsupported(format!("there is no op number {}", op.0)))?;
        let types: SmallVec<[&Type<u32>; 4]> = inputs.iter().map(|input| &input.ty).collect();
        let ty = spec.infer_refs(&types, attrs)?;
        if let Some(executor) = self.runtime.executor() {
            return self.send(executor, spec, inputs, attrs, ty);
        }
        let operands: SmallVec<[Operand<'_>; 4]> = inputs.iter().map(|input| input.operand()).collect();
        let cost = spec.cost(&operands, attrs, &ty);
        let mut list: SmallVec<[&candle_core::Tensor; 4]> = SmallVec::with_capacity(inputs.len());
        for input in inputs {
            list.push(input.here()?);
        }
        match (cost.shares, inputs) {
            (true, [first, ..]) => Ok(Tensor {
                elements: Elements::Here(self.run(spec, &list, attrs, &ty)?),
                owner: first.owner.clone(),
                ty,
            }),
            _ => {
                let mut charge = self
                    .budget
                    .charge(cost.output_bytes.saturating_add(cost.temporary_bytes))
                    .map_err(|e| e.at(spec.applied_to(&types)))?;
                let inner = self.run(spec, &list, attrs, &ty)?;
                charge.shrink(cost.output_bytes);
                Ok(Tensor {
                    elements: Elements::Here(inner),
                    ty,
                    owner: Owner::Budget(Arc::new(charge)),
                })
            }
        }
    }

    /// Runs an op here.
    fn run(
        &self,
        spec: &'static OpSpec,
        inputs: &[&candle_core::Tensor],
        attrs: &[Attr],
        ty: &Type<u32>,
    ) -> Result<candle_core::Tensor, Error> {
        let kernel = || kernels::run(spec, inputs, attrs, ty, &Buffers::none());
        self.control.stoppable(|| guard(spec, kernel))
    }

    /// Compiles a program on the scope's runtime, or finds it compiled; gives up when the call has to.
    ///
    /// # Errors
    /// As [`ProgramCache::compile`](crate::ProgramCache::compile); `timeout`, `cancelled`.
    pub fn compile(
        &self,
        description: &Description,
        files: &BTreeMap<String, Arc<WeightFile>>,
    ) -> Result<Arc<Program>, Error> {
        let started = work::clock(Instant::now());
        let programs = self.runtime.programs();
        let go_on = &mut || self.control.check(Instant::now());
        let compile = || programs.compile_while(&self.owner, description, files, go_on);
        let program = self.control.stoppable(compile);
        self.count(|stats| stats.load += work::since(started));
        program
    }

    /// A program that this scope's owner has compiled before, if it is still cached.
    pub fn find(&self, digest: &str, files: &BTreeMap<String, Arc<WeightFile>>) -> Option<Arc<Program>> {
        self.runtime.programs().find(&self.owner, digest, files)
    }

    /// A tensor of a weight file, as `dtype` or as it is stored.
    ///
    /// # Errors
    /// As [`WeightStore::get`](crate::WeightStore::get).
    pub fn weight(&self, file: &WeightFile, name: &str, dtype: Option<DType>) -> Result<Tensor, Error> {
        let started = work::clock(Instant::now());
        let tensor = self.control.stoppable(|| self.runtime.weights().get(file, name, dtype));
        self.count(|stats| stats.load += work::since(started));
        tensor
    }

    /// Every element, row-major, little-endian.
    ///
    /// # Errors
    /// `quota` if the copy does not fit the budget; `timeout`, `cancelled`.
    pub fn read(&self, tensor: &Tensor) -> Result<Vec<u8>, Error> {
        self.read_range(tensor, 0, tensor.elements())
    }

    /// `count` elements from element `start` on, row-major, little-endian.
    ///
    /// # Errors
    /// `shape` past the end; `quota` if the copy does not fit the budget; `timeout`, `cancelled`.
    pub fn read_range(&self, tensor: &Tensor, start: u64, count: u64) -> Result<Vec<u8>, Error> {
        let elements = tensor.elements();
        if start.checked_add(count).is_none_or(|end| end > elements) {
            return Err(Error::shape(format!(
                "elements {start} and {count} after it reach past the {elements} of {}",
                tensor.ty
            )));
        }
        if let Some(executor) = self.runtime.executor() {
            return self.download(executor, tensor, start as usize, count as usize);
        }
        let inner = tensor.here()?;
        // A view is made contiguous first, as a whole.
        let copy = if inner.is_contiguous() { 0 } else { tensor.bytes() };
        let _charge = self
            .budget
            .charge(copy)
            .map_err(|e| e.at(format_args!("reading {}", tensor.ty)))?;
        let copy = || tensor::to_bytes(inner, start as usize, count as usize);
        let bytes = self.control.stoppable(copy)?;
        self.count(|stats| stats.read_bytes += bytes.len() as u64);
        Ok(bytes)
    }

    /// Takes over an output of a program.
    pub(crate) fn adopt(&self, inner: candle_core::Tensor, ty: Type<u32>, charge: Charge) -> Tensor {
        Tensor {
            elements: Elements::Here(inner),
            ty,
            owner: Owner::Budget(Arc::new(charge)),
        }
    }
}

/// Runs a kernel; what candle did not foresee becomes an error, never a panic, and so does leaving it: see [`Control::stoppable`].
pub(crate) fn guard<T>(spec: &OpSpec, kernel: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    match catch_unwind(AssertUnwindSafe(kernel)) {
        Ok(Ok(tensor)) => Ok(tensor),
        Ok(Err(error)) => Err(error.at(spec.name)),
        Err(payload) if payload.is::<Stopped>() => Err(Error::cancelled(format!("{}: stopped", spec.name))),
        Err(_) => Err(Error::internal(format!(
            "{}: the kernel failed; this is a fault of the host",
            spec.name
        ))),
    }
}

//! A tensor device: its weights and its compiled programs.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use maquette_ops::Error;

use crate::budget::Budget;
use crate::cuda::Executor;
use crate::device::Device;
use crate::memory::{Memory, Share};
use crate::program::ProgramCache;
use crate::resident::WeightStore;

/// What a runtime is made with.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Bytes of weights that may be resident; those used longest ago leave first.
    pub weight_budget: u64,
    /// How many compiled programs are kept.
    pub program_capacity: usize,
    /// What all calls together may hold of the machine's memory.
    pub memory: Arc<Memory>,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            weight_budget: u64::MAX,
            program_capacity: 1024,
            memory: Memory::unlimited(),
        }
    }
}

/// A device with everything that calls share. A process needs one.
#[derive(Debug)]
pub struct Runtime {
    executor: Option<Arc<Executor>>,
    weights: Arc<WeightStore>,
    programs: ProgramCache,
    memory: Arc<Memory>,
    /// The budgets of calls, those that are over included until the next call begins.
    budgets: Mutex<Vec<Weak<Budget>>>,
}

impl Runtime {
    /// A runtime on the CPU.
    ///
    /// # Errors
    /// None today.
    pub fn cpu(config: RuntimeConfig) -> Result<Arc<Self>, Error> {
        Self::on(Device::Cpu, config)
    }

    /// A runtime on a device, which is opened: a GPU gets a thread and a stream of its own. Budgets count the bytes there.
    ///
    /// # Errors
    /// `unsupported` if the device cannot be used on this machine or by this binary, with what to do ([`Device::check`]).
    pub fn on(device: Device, config: RuntimeConfig) -> Result<Arc<Self>, Error> {
        let executor = if device.is_cpu() {
            None
        } else {
            Some(Executor::start(device)?)
        };
        let weights = Arc::new(WeightStore::new(config.weight_budget, executor.clone()));
        let programs = ProgramCache::new(config.program_capacity, Arc::clone(&weights));
        Ok(Arc::new(Self {
            executor,
            weights,
            programs,
            memory: config.memory,
            budgets: Mutex::default(),
        }))
    }

    /// Where its tensors are.
    pub fn device(&self) -> Device {
        self.executor.as_ref().map_or(Device::Cpu, |executor| executor.device())
    }

    /// The thread that has the device, if that is not every thread's processor.
    #[inline]
    pub(crate) fn executor(&self) -> Option<&Arc<Executor>> {
        self.executor.as_ref()
    }

    /// The weights.
    pub fn weights(&self) -> &WeightStore {
        &self.weights
    }

    /// The compiled programs.
    pub fn programs(&self) -> &ProgramCache {
        &self.programs
    }

    /// What all calls together may hold of the machine's memory.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// A budget of so many bytes for one call, counted in [`Runtime::charged`] for as long as anything is charged to it. Where tensors
    /// live in the machine's memory, they need room in the call's share of it.
    pub fn budget(&self, limit: u64, share: &Arc<Share>) -> Arc<Budget> {
        let budget = match self.device() {
            Device::Cuda(_) => Budget::new(limit),
            Device::Cpu | Device::Composed => Budget::under(Arc::clone(share), limit),
        };
        let mut budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        budgets.retain(|budget| budget.strong_count() > 0);
        budgets.push(Arc::downgrade(&budget));
        budget
    }

    /// Bytes that all calls together are charged for now.
    pub fn charged(&self) -> u64 {
        let budgets = self.budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let live = budgets.iter().filter_map(Weak::upgrade);
        live.map(|budget| budget.used()).sum()
    }
}

//! A process's tensor device: its weights and its compiled programs.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use maquette_ops::Error;

use crate::budget::Budget;
use crate::program::ProgramCache;
use crate::resident::WeightStore;

/// What a runtime is made with.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Bytes of weights that may be resident; those used longest ago leave first.
    pub weight_budget: u64,
    /// How many compiled programs are kept.
    pub program_capacity: usize,
}

impl Default for RuntimeConfig {
    fn default() -> Self {
        Self {
            weight_budget: u64::MAX,
            program_capacity: 1024,
        }
    }
}

/// A process's device with everything that calls share. A process needs one.
#[derive(Debug)]
pub struct Runtime {
    weights: Arc<WeightStore>,
    programs: ProgramCache,
    /// The budgets of calls, those that are over included until the next call begins.
    budgets: Mutex<Vec<Weak<Budget>>>,
}

impl Runtime {
    /// A runtime on the CPU.
    ///
    /// # Errors
    /// None today; a device that is not there, later.
    pub fn cpu(config: RuntimeConfig) -> Result<Arc<Self>, Error> {
        let weights = Arc::new(WeightStore::new(config.weight_budget));
        let programs = ProgramCache::new(config.program_capacity, Arc::clone(&weights));
        Ok(Arc::new(Self {
            weights,
            programs,
            budgets: Mutex::default(),
        }))
    }

    /// The weights.
    pub fn weights(&self) -> &WeightStore {
        &self.weights
    }

    /// The compiled programs.
    pub fn programs(&self) -> &ProgramCache {
        &self.programs
    }

    /// A budget of so many bytes for one call, counted in [`Runtime::charged`] for as long as anything is charged to it.
    pub fn budget(&self, limit: u64) -> Arc<Budget> {
        let budget = Budget::new(limit);
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

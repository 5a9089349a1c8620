//! A process's tensor device: its weights and its compiled programs.

use std::sync::Arc;

use maquette_ops::Error;

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
}

impl Runtime {
    /// A runtime on the CPU.
    ///
    /// # Errors
    /// None today; a device that is not there, later.
    pub fn cpu(config: RuntimeConfig) -> Result<Arc<Self>, Error> {
        let weights = Arc::new(WeightStore::new(config.weight_budget));
        let programs = ProgramCache::new(config.program_capacity, Arc::clone(&weights));
        Ok(Arc::new(Self { weights, programs }))
    }

    /// The weights.
    pub fn weights(&self) -> &WeightStore {
        &self.weights
    }

    /// The compiled programs.
    pub fn programs(&self) -> &ProgramCache {
        &self.programs
    }
}

//! A value on a device, seen from a lane: it is there when the jobs sent before have run.

use std::sync::{Arc, OnceLock};

use candle_core::Tensor;
use maquette_ops::Error;
use smallvec::SmallVec;

use crate::tensor::Owner;

/// Bounds of a tensor's integers, where some are known without looking at the device: none is less, none is larger.
pub(crate) type Range = Option<(i64, i64)>;

/// A tensor on the device.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) tensor: Tensor,
    pub(crate) range: Range,
}

/// Where a job leaves its value, or why there is none. Jobs run in the order in which they were sent, so one that reads it finds it
/// filled; what was made of a failed value has failed for the same reason.
#[derive(Debug)]
pub(crate) struct Slot {
    value: OnceLock<Result<Value, Error>>,
    /// Pays for the memory until no lane and no job has the slot any more.
    _owner: Owner,
}

impl Slot {
    pub(crate) fn empty(owner: Owner) -> Arc<Self> {
        Arc::new(Self {
            value: OnceLock::new(),
            _owner: owner,
        })
    }

    pub(crate) fn fill(&self, value: Result<Value, Error>) {
        // A slot is made for one job, which fills it once.
        let _ = self.value.set(value);
    }

    /// The value. Only jobs behind the one that fills it may ask.
    pub(crate) fn get(&self) -> Result<&Value, Error> {
        match self.value.get() {
            Some(Ok(value)) => Ok(value),
            Some(Err(error)) => Err(error.clone()),
            None => Err(Error::internal("a value of the device is not there yet")),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(Ok(value)) = self.value.get() {
            super::open::bind(&value.tensor);
        }
    }
}

/// A tensor on a device, as a lane knows it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) slot: Arc<Slot>,
    /// How it lies there, counted in elements: costs depend on it.
    pub(crate) strides: SmallVec<[usize; 8]>,
}

//! A cache on a device: keys and values of a layer are one tensor each, made anew, longer, by every run that appends.

use std::sync::Arc;

use maquette_ops::Error;
use maquette_ops::program::CacheSpec;

use super::KvCache;
use crate::cuda::{Executor, Slot};
use crate::scope::Scope;
use crate::tensor::Owner;

/// Keys `[1, time, heads, width]` and values of a layer, as f32. They may hold more places than the cache, which was cut then.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) keys: Arc<Slot>,
    pub(crate) values: Arc<Slot>,
}

/// What a run leaves of a cache if it succeeds.
#[derive(Clone, Debug)]
pub(crate) struct Growth {
    /// Places held before.
    pub(crate) len: u32,
    /// Places held after.
    pub(crate) end: u32,
    /// Each layer as it is, if anything is in it.
    pub(crate) before: Vec<Layer>,
    /// Each layer as it will be.
    pub(crate) after: Vec<Layer>,
}

impl KvCache {
    /// Pays for every layer with `more` places behind what it holds; what it holds now is paid for until [`KvCache::keep`].
    ///
    /// # Errors
    /// `invalid-input` if the capacity does not hold them; `quota`.
    pub(crate) fn grow(&self, scope: &Scope, executor: &Executor, more: u32) -> Result<Growth, Error> {
        let (len, end) = (self.len(), self.end_after(more)?);
        let CacheSpec {
            heads,
            width,
            value_width,
            layers,
        } = self.spec;
        let place = |width: u32| u64::from(end) * u64::from(heads) * u64::from(width) * 4;
        let slot = |bytes: u64| -> Result<Arc<Slot>, Error> {
            let charge = scope.charge_from(&self.budget, executor, bytes)?;
            Ok(Slot::empty(Owner::Budget(Arc::new(charge))))
        };
        let before = self.device.borrow().clone();
        if len > 0 && before.len() != layers as usize {
            return Err(Error::internal("the cache was filled on another device"));
        }
        let after = (0..layers).map(|_| {
            Ok(Layer {
                keys: slot(place(width))?,
                values: slot(place(value_width))?,
            })
        });
        Ok(Growth {
            len,
            end,
            before,
            after: after.collect::<Result<_, Error>>()?,
        })
    }

    /// The run has succeeded: the cache holds what it left.
    pub(crate) fn keep(&self, growth: Growth) {
        if growth.end > growth.len {
            *self.device.borrow_mut() = growth.after;
            self.len.set(growth.end);
        }
    }
}

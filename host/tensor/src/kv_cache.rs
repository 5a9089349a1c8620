//! A key-value cache: the one thing that a program changes. It grows when a run succeeds, can be cut, and forks without copying.

mod remote;

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use maquette_kernels::kv::{PAGE, Page};
use maquette_ops::program::CacheSpec;
use maquette_ops::{Error, MAX_CACHE_LAYERS};

use crate::budget::{Budget, Charge};
use crate::kernels::each_vector;

pub(crate) use remote::{Growth, Layer};

/// A page with whoever pays for it.
#[derive(Debug)]
struct Paid {
    page: Page,
    _charge: Charge,
}

/// Keys and values of each layer, in pages. Used by one thread at a time.
///
/// A fork shares the pages; who appends to a shared one gets a copy of it first.
#[derive(Debug)]
pub struct KvCache {
    spec: CacheSpec,
    budget: Arc<Budget>,
    capacity: u32,
    len: Cell<u32>,
    /// The pages of each layer; no layers before the first pages.
    layers: RefCell<Vec<Vec<Arc<Paid>>>>,
    /// The layers on a device, once something was appended there; pages are the processor's.
    device: RefCell<Vec<Layer>>,
    /// For the lists of pages, which a fork copies: pages may be small and forks many.
    _lists: Charge,
}

/// Bytes that the lists of pages take.
fn lists(layers: usize, pages: usize) -> u64 {
    let bytes = layers.saturating_mul(size_of::<Vec<Arc<Paid>>>());
    bytes.saturating_add(pages.saturating_mul(size_of::<Arc<Paid>>())) as u64
}

impl KvCache {
    /// An empty cache for at most `capacity` places in time. Its pages are paid for as it grows.
    ///
    /// # Errors
    /// `shape` if a size is 0; `quota` if there are too many layers.
    pub fn new(budget: &Arc<Budget>, spec: CacheSpec, capacity: u32) -> Result<Self, Error> {
        if spec.layers == 0 || spec.heads == 0 || spec.width == 0 || spec.value_width == 0 {
            return Err(Error::shape("a cache's layers, heads and widths must not be 0"));
        }
        if spec.layers as usize > MAX_CACHE_LAYERS {
            return Err(Error::quota(format!(
                "a cache of {} layers; at most {MAX_CACHE_LAYERS} are allowed",
                spec.layers
            )));
        }
        let lists = budget
            .charge(lists(spec.layers as usize, 0))
            .map_err(|e| e.at("the cache"))?;
        Ok(Self {
            _lists: lists,
            spec,
            budget: Arc::clone(budget),
            capacity,
            len: Cell::new(0),
            layers: RefCell::default(),
            device: RefCell::default(),
        })
    }

    /// What its layers hold of each place.
    pub fn spec(&self) -> CacheSpec {
        self.spec
    }

    /// How many places it holds.
    pub fn len(&self) -> u32 {
        self.len.get()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many places it can hold.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Forgets all but the first `len` places.
    ///
    /// # Errors
    /// `invalid-input` if it holds fewer.
    pub fn truncate(&self, len: u32) -> Result<(), Error> {
        if len > self.len() {
            return Err(Error::invalid_input(format!(
                "the cache holds {} places and cannot be cut to {len}",
                self.len()
            )));
        }
        self.len.set(len);
        let pages = (len as usize).div_ceil(PAGE);
        self.layers
            .borrow_mut()
            .iter_mut()
            .for_each(|layer| layer.truncate(pages));
        if len == 0 {
            self.device.borrow_mut().clear();
        }
        Ok(())
    }

    /// Another cache with the same contents. Pages are shared until one of the two appends to them; the list of them is paid for.
    ///
    /// # Errors
    /// `quota`.
    pub fn fork(&self) -> Result<Self, Error> {
        let pages = self.layers.borrow().iter().map(Vec::len).sum();
        let lists = self
            .budget
            .charge(lists(self.spec.layers as usize, pages))
            .map_err(|e| e.at("the fork of the cache"))?;
        Ok(Self {
            _lists: lists,
            spec: self.spec,
            budget: Arc::clone(&self.budget),
            capacity: self.capacity,
            len: self.len.clone(),
            layers: self.layers.clone(),
            device: self.device.clone(),
        })
    }

    /// How many places it holds once `more` were appended.
    fn end_after(&self, more: u32) -> Result<u32, Error> {
        let len = self.len();
        let end = len.checked_add(more).filter(|end| *end <= self.capacity);
        end.ok_or_else(|| {
            Error::invalid_input(format!(
                "the cache holds {len} of at most {} places; {more} more do not fit: shorten the input or make a larger cache",
                self.capacity
            ))
        })
    }

    /// Makes sure that `more` places can be appended: their pages are there and are nobody else's.
    ///
    /// # Errors
    /// `invalid-input` if the capacity does not hold them; `quota`.
    pub(crate) fn reserve(&self, more: u32) -> Result<(), Error> {
        let (len, end) = (self.len(), self.end_after(more)?);
        let CacheSpec {
            heads,
            width,
            value_width,
            ..
        } = self.spec;
        let page = Page::bytes(u64::from(heads), u64::from(width), u64::from(value_width));
        // A page of a few numbers takes more for itself and its place in the list than for the numbers.
        let bytes = page.saturating_add((size_of::<Paid>() + 2 * size_of::<Arc<Paid>>()) as u64);
        let fresh = || -> Result<Paid, Error> {
            let charge = self.budget.charge(bytes).map_err(|e| e.at("the cache"))?;
            Ok(Paid {
                page: Page::new(heads as usize, width as usize, value_width as usize),
                _charge: charge,
            })
        };
        let first = len as usize / PAGE;
        let mut layers = self.layers.borrow_mut();
        if more > 0 {
            layers.resize_with(self.spec.layers as usize, Vec::new);
        }
        for layer in layers.iter_mut() {
            if more > 0
                && let Some(page) = layer.get_mut(first)
                && Arc::get_mut(page).is_none()
            {
                let mut own = fresh()?;
                own.page = page.page.clone();
                *page = Arc::new(own);
            }
            while layer.len() < (end as usize).div_ceil(PAGE) {
                layer.push(Arc::new(fresh()?));
            }
        }
        Ok(())
    }

    /// Writes keys and values `[1, t, heads, _]` of a layer behind what it holds. [`KvCache::reserve`] has made room.
    pub(crate) fn append(&self, layer: usize, k: &candle_core::Tensor, v: &candle_core::Tensor) -> Result<(), Error> {
        let lost = || Error::internal("a page of the cache is not there");
        let mut layers = self.layers.borrow_mut();
        let pages = layers.get_mut(layer).ok_or_else(lost)?;
        let len = self.len() as usize;
        let mut missing = false;
        let mut each = |x: &candle_core::Tensor, put: fn(&mut Page, usize, usize, &[f32])| {
            each_vector(x, |time, head, vector| {
                let at = len + time;
                match pages.get_mut(at / PAGE).and_then(Arc::get_mut) {
                    Some(paid) => put(&mut paid.page, at % PAGE, head, vector),
                    None => missing = true,
                }
            })
        };
        each(k, Page::set_key)?;
        each(v, Page::set_value)?;
        if missing { Err(lost()) } else { Ok(()) }
    }

    /// Calls a function with the pages of a layer.
    pub(crate) fn with_pages<R>(&self, layer: usize, f: impl FnOnce(&[&Page]) -> R) -> Result<R, Error> {
        if layer >= self.spec.layers as usize {
            return Err(Error::internal("a layer of the cache is not there"));
        }
        let layers = self.layers.borrow();
        let pages: Vec<&Page> = layers.get(layer).into_iter().flatten().map(|paid| &paid.page).collect();
        Ok(f(&pages))
    }

    /// What a run has appended to every layer is now held.
    pub(crate) fn commit(&self, more: u32) {
        self.len.set(self.len().saturating_add(more));
    }
}

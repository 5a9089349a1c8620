//! Weights in memory: each tensor once per (blob, name, form), shared by every call, the longest unused leaving first.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use maquette_ops::{DType, Error, Type};

use crate::cuda::Executor;
use crate::matrix::Matrix;
use crate::tensor::{Elements, Owner, Tensor};
use crate::weight_file::WeightFile;

/// Counts a weight's bytes as long as anybody holds it.
#[derive(Debug)]
pub(crate) struct Resident {
    bytes: u64,
    total: Arc<AtomicU64>,
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// What a weight is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Form {
    /// A tensor of this type.
    Tensor(DType),
    /// The weight of a linear layer, packed.
    Matrix,
}

type Key = (String, String, Form);

/// A weight in one of its forms.
#[derive(Clone, Debug)]
enum Loaded {
    Tensor(Tensor),
    Matrix(Weight),
}

impl Loaded {
    /// How many references to [`Resident`] there are while nobody but the store has it.
    fn references(&self) -> usize {
        match self {
            Self::Tensor(tensor) if matches!(tensor.elements, Elements::There(_)) => 3,
            Self::Tensor(_) | Self::Matrix(_) => 2,
        }
    }
}

/// The weight of a linear layer, resident as long as it is held.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    pub(crate) matrix: Arc<Matrix>,
    _resident: Arc<Resident>,
}

#[derive(Debug)]
struct Entry {
    loaded: Loaded,
    resident: Arc<Resident>,
    used: u64,
}

impl Entry {
    /// Whether nobody holds it: the entry's own references are all there are, `resident`, that of what is loaded, and on a device that of
    /// its slot.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.resident) == self.loaded.references()
    }
}

/// The weights of a process.
#[derive(Debug)]
pub struct WeightStore {
    budget: u64,
    executor: Option<Arc<Executor>>,
    total: Arc<AtomicU64>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    files: HashMap<String, Weak<WeightFile>>,
    entries: HashMap<Key, Entry>,
    clock: u64,
}

impl WeightStore {
    /// A store for so many bytes, on a device or in the processor's memory.
    pub(crate) fn new(budget: u64, executor: Option<Arc<Executor>>) -> Self {
        Self {
            budget,
            executor,
            total: Arc::new(AtomicU64::new(0)),
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a weight file, or finds it open.
    ///
    /// # Errors
    /// `invalid-input` if the file is hostile or broken.
    pub fn open(&self, digest: &str, path: &Path) -> Result<Arc<WeightFile>, Error> {
        if let Some(file) = self.lock().files.get(digest).and_then(Weak::upgrade) {
            return Ok(file);
        }
        let file = Arc::new(WeightFile::open(digest, path)?);
        let mut inner = self.lock();
        inner.files.retain(|_, file| file.strong_count() > 0);
        inner.files.insert(digest.to_owned(), Arc::downgrade(&file));
        Ok(file)
    }

    /// Opens weights that are in several files, in their order, as one file.
    ///
    /// # Errors
    /// `invalid-input` if one of them is hostile or broken, or two have a tensor of the same name.
    pub fn open_shards(&self, shards: &[(&str, &Path)]) -> Result<Arc<WeightFile>, Error> {
        if let [(digest, path)] = shards {
            return self.open(digest, path);
        }
        let open = |(i, (digest, path)): (usize, &(&str, &Path))| {
            let file = self.open(digest, path);
            file.map_err(|mut error| {
                error.message = format!("shard {}: {}", i + 1, error.message);
                error
            })
        };
        let files = shards.iter().enumerate().map(open).collect::<Result<Vec<_>, _>>()?;
        WeightFile::join(&files).map(Arc::new)
    }

    /// The thread that has the device on which the weights are.
    pub(crate) fn executor(&self) -> Option<&Arc<Executor>> {
        self.executor.as_ref()
    }

    /// Bytes of weights in memory.
    pub fn resident_bytes(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// A tensor of a file, as `dtype` or as it is stored. The first call copies it out of the file; the next share it.
    ///
    /// # Errors
    /// `invalid-input` if there is no such tensor; `dtype`; `quota` if it does not fit beside the weights in use.
    pub fn get(&self, file: &WeightFile, name: &str, dtype: Option<DType>) -> Result<Tensor, Error> {
        let dtype = match dtype {
            Some(dtype) => dtype,
            None => file.natural(name)?,
        };
        let ty = Type::new(dtype, file.info(name)?.shape.iter().copied());
        let bytes = ty.bytes();
        let loaded = self.load(file, name, Form::Tensor(dtype), bytes, |resident| {
            let (read, owner) = (file.read(name, dtype)?, Owner::Resident(resident));
            // On a device it is charged once: the copy in the processor's memory is gone when this returns.
            let elements = match &self.executor {
                None => Elements::Here(read),
                Some(executor) => Elements::There(Box::new(executor.place(read, owner.clone())?)),
            };
            Ok(Loaded::Tensor(Tensor { elements, ty, owner }))
        })?;
        match loaded {
            Loaded::Tensor(tensor) => Ok(tensor),
            Loaded::Matrix(_) => Err(Error::internal("a weight in another form")),
        }
    }

    /// A tensor `[out, in]` of a file as the weight of a linear layer, packed for its kernel; `None` if it is stored as something
    /// that there is no kernel for.
    pub(crate) fn matrix(&self, file: &WeightFile, name: &str) -> Result<Option<Weight>, Error> {
        let Some(bytes) = file.matrix_bytes(name)? else {
            return Ok(None);
        };
        let loaded = self.load(file, name, Form::Matrix, bytes, |resident| {
            Ok(Loaded::Matrix(Weight {
                matrix: Arc::new(file.matrix(name)?),
                _resident: resident,
            }))
        })?;
        match loaded {
            Loaded::Matrix(weight) => Ok(Some(weight)),
            Loaded::Tensor(_) => Err(Error::internal("a weight in another form")),
        }
    }

    /// How many bytes a tensor of a file would take that is not here yet: as the weight of a linear layer if it can be one and is to, or
    /// else as `dtype`.
    pub(crate) fn missing(&self, file: &WeightFile, name: &str, dtype: DType, product: bool) -> Result<u64, Error> {
        let packed = if product { file.matrix_bytes(name)? } else { None };
        let (form, bytes) = match packed {
            Some(bytes) => (Form::Matrix, bytes),
            None => {
                let ty = Type::new(dtype, file.info(name)?.shape.iter().copied());
                (Form::Tensor(dtype), ty.bytes())
            }
        };
        let key = (file.digest_of(name)?.to_owned(), name.to_owned(), form);
        let here = self.lock().entries.contains_key(&key);
        Ok(if here { 0 } else { bytes })
    }

    /// Whether so many more bytes can be loaded beside the weights that somebody holds; also if nothing could make room for them.
    pub(crate) fn has_room(&self, bytes: u64) -> bool {
        if bytes > self.budget || self.resident_bytes().saturating_add(bytes) <= self.budget {
            return true;
        }
        let inner = self.lock();
        let held = inner.entries.values().filter(|entry| !entry.is_idle());
        let held: u64 = held.map(|entry| entry.resident.bytes).sum();
        held.saturating_add(bytes) <= self.budget
    }

    fn load(
        &self,
        file: &WeightFile,
        name: &str,
        form: Form,
        bytes: u64,
        read: impl FnOnce(Arc<Resident>) -> Result<Loaded, Error>,
    ) -> Result<Loaded, Error> {
        let key = (file.digest_of(name)?.to_owned(), name.to_owned(), form);
        if let Some(loaded) = self.lock().touch(&key) {
            return Ok(loaded);
        }
        {
            // Counted under the lock, so that two that load at once do not take the same room.
            let mut inner = self.lock();
            inner.make_room(self.budget, &self.total, bytes)?;
            self.total.fetch_add(bytes, Ordering::Relaxed);
        }
        let resident = Arc::new(Resident {
            bytes,
            total: Arc::clone(&self.total),
        });
        let loaded = read(Arc::clone(&resident))?;
        let mut inner = self.lock();
        // Two may have loaded it at once: the first to come here is kept.
        if let Some(loaded) = inner.touch(&key) {
            return Ok(loaded);
        }
        let used = inner.tick();
        inner.entries.insert(
            key,
            Entry {
                loaded: loaded.clone(),
                resident,
                used,
            },
        );
        Ok(loaded)
    }
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn touch(&mut self, key: &Key) -> Option<Loaded> {
        let now = self.tick();
        let entry = self.entries.get_mut(key)?;
        entry.used = now;
        Some(entry.loaded.clone())
    }

    /// Lets weights that nobody holds leave, the longest unused first, until so many more bytes fit.
    fn make_room(&mut self, budget: u64, total: &AtomicU64, bytes: u64) -> Result<(), Error> {
        while total.load(Ordering::Relaxed).saturating_add(bytes) > budget {
            let idle = self.entries.iter().filter(|(_, entry)| entry.is_idle());
            let Some(oldest) = idle.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone()) else {
                return Err(Error::quota(format!(
                    "a weight of {bytes} bytes does not fit: {} of {budget} bytes are in use by running models",
                    total.load(Ordering::Relaxed)
                )));
            };
            self.entries.remove(&oldest);
        }
        Ok(())
    }
}

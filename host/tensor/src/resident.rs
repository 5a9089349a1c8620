//! Weights in memory: each tensor once per (blob, name, dtype), shared by every call, the longest unused leaving first.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use maquette_ops::{DType, Error, Type};

use crate::safetensors::WeightFile;
use crate::tensor::{Owner, Tensor};

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

type Key = (String, String, DType);

#[derive(Debug)]
struct Entry {
    tensor: Tensor,
    resident: Arc<Resident>,
    used: u64,
}

/// The weights of a process.
#[derive(Debug)]
pub struct WeightStore {
    budget: u64,
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
    pub(crate) fn new(budget: u64) -> Self {
        Self {
            budget,
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
        let key = (file.digest().to_owned(), name.to_owned(), dtype);
        if let Some(tensor) = self.lock().touch(&key) {
            return Ok(tensor);
        }
        let ty = Type::new(dtype, file.info(name)?.shape.iter().copied());
        let bytes = ty.bytes();
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
        let tensor = Tensor {
            inner: file.read(name, dtype)?,
            ty,
            owner: Owner::Resident(Arc::clone(&resident)),
        };
        let mut inner = self.lock();
        // Two may have loaded it at once: the first to come here is kept.
        if let Some(tensor) = inner.touch(&key) {
            return Ok(tensor);
        }
        let used = inner.tick();
        inner.entries.insert(
            key,
            Entry {
                tensor: tensor.clone(),
                resident,
                used,
            },
        );
        Ok(tensor)
    }
}

impl Inner {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn touch(&mut self, key: &Key) -> Option<Tensor> {
        let now = self.tick();
        let entry = self.entries.get_mut(key)?;
        entry.used = now;
        Some(entry.tensor.clone())
    }

    /// Lets weights that nobody holds leave, the longest unused first, until so many more bytes fit.
    fn make_room(&mut self, budget: u64, total: &AtomicU64, bytes: u64) -> Result<(), Error> {
        while total.load(Ordering::Relaxed).saturating_add(bytes) > budget {
            // The entry's own two references are all there are: its tensor's owner and `resident`.
            let idle = self
                .entries
                .iter()
                .filter(|(_, entry)| Arc::strong_count(&entry.resident) == 2);
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

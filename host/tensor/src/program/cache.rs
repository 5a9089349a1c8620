//! The compiled programs of a process; those used longest ago leave first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maquette_ops::Error;
use maquette_ops::program::Description;

use super::Program;
use crate::WeightStore;
use crate::weight_file::WeightFile;

/// Bytes that cached programs may take together, weights not counted: a guest decides how large its programs are.
const MAX_CACHED_BYTES: usize = 256 << 20;

/// The digest of the description, and names and digests of the weight files.
type Key = (String, Vec<String>);

#[derive(Debug)]
struct Entry {
    program: Arc<Program>,
    used: u64,
}

#[derive(Debug, Default)]
struct Cached {
    programs: HashMap<Key, Entry>,
    bytes: usize,
    clock: u64,
}

/// The compiled programs of a process, by the digest of their description and the digests of the weight files.
#[derive(Debug)]
pub struct ProgramCache {
    capacity: usize,
    cached: Mutex<Cached>,
    weights: Arc<WeightStore>,
}

impl ProgramCache {
    pub(crate) fn new(capacity: usize, weights: Arc<WeightStore>) -> Self {
        Self {
            capacity: capacity.max(1),
            cached: Mutex::default(),
            weights,
        }
    }

    /// A program compiled before, if it is still cached.
    pub fn find(&self, digest: &str, files: &BTreeMap<String, Arc<WeightFile>>) -> Option<Arc<Program>> {
        let mut cached = self.lock();
        cached.clock += 1;
        let now = cached.clock;
        let entry = cached.programs.get_mut(&key(digest, files))?;
        entry.used = now;
        Some(Arc::clone(&entry.program))
    }

    /// Every program that is cached, in no order: for measuring and looking into a host.
    pub fn all(&self) -> Vec<Arc<Program>> {
        let cached = self.lock();
        cached
            .programs
            .values()
            .map(|entry| Arc::clone(&entry.program))
            .collect()
    }

    /// Compiles a description, or finds it compiled. [`Scope::compile`](crate::Scope::compile) also watches a call's deadline.
    ///
    /// # Errors
    /// What is wrong with the description, or with how the weights fit it.
    pub fn compile(
        &self,
        description: &Description,
        files: &BTreeMap<String, Arc<WeightFile>>,
    ) -> Result<Arc<Program>, Error> {
        self.compile_while(description, files, &mut || Ok(()))
    }

    pub(crate) fn compile_while(
        &self,
        description: &Description,
        files: &BTreeMap<String, Arc<WeightFile>>,
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Arc<Program>, Error> {
        let digest = description.digest();
        if let Some(program) = self.find(&digest, files) {
            return Ok(program);
        }
        let key = key(&digest, files);
        let program = Program::compile(digest, description, files, &self.weights, go_on)?;
        Ok(self.lock().keep(key, Arc::new(program), self.capacity))
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cached {
    /// Keeps a program, if another thread has not kept the same one first.
    fn keep(&mut self, key: Key, program: Arc<Program>, capacity: usize) -> Arc<Program> {
        self.clock += 1;
        let used = self.clock;
        if let Some(entry) = self.programs.get(&key) {
            return Arc::clone(&entry.program);
        }
        while self.programs.len() >= capacity || self.bytes + program.bytes > MAX_CACHED_BYTES {
            let oldest = self.programs.iter().min_by_key(|(_, entry)| entry.used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            if let Some(gone) = self.programs.remove(&oldest) {
                self.bytes -= gone.program.bytes;
            }
        }
        self.bytes += program.bytes;
        let entry = Entry {
            program: Arc::clone(&program),
            used,
        };
        self.programs.insert(key, entry);
        program
    }
}

fn key(digest: &str, files: &BTreeMap<String, Arc<WeightFile>>) -> Key {
    let files = files.iter().map(|(name, file)| format!("{name}={}", file.digest()));
    (digest.to_owned(), files.collect())
}

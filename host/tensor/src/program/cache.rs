//! The compiled programs of a process. When there is no room, the owner that takes the most of it gives up what it used longest
//! ago: whoever compiles a thousand programs pushes out their own.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use maquette_ops::Error;
use maquette_ops::program::Description;

use super::Program;
use crate::WeightStore;
use crate::weight_file::WeightFile;

/// Bytes that cached programs may take together, weights not counted: a guest decides how large its programs are.
const MAX_CACHED_BYTES: usize = 256 << 20;

/// Who compiled it, the digest of the description, and names and digests of the weight files.
type Key = (String, String, Vec<String>);

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

/// The compiled programs of a process, by owner, the digest of their description and the digests of the weight files.
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

    /// A program that this owner compiled before, if it is still cached.
    pub(crate) fn find(
        &self,
        owner: &str,
        digest: &str,
        files: &BTreeMap<String, Arc<WeightFile>>,
    ) -> Option<Arc<Program>> {
        let mut cached = self.lock();
        cached.clock += 1;
        let now = cached.clock;
        let entry = cached.programs.get_mut(&key(owner, digest, files))?;
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

    /// Compiles a description that nobody in particular owns, or finds it compiled. [`Scope::compile`](crate::Scope::compile) also
    /// watches a call's deadline.
    ///
    /// # Errors
    /// What is wrong with the description, or with how the weights fit it.
    pub fn compile(
        &self,
        description: &Description,
        files: &BTreeMap<String, Arc<WeightFile>>,
    ) -> Result<Arc<Program>, Error> {
        self.compile_while("", description, files, &mut || Ok(()))
    }

    pub(crate) fn compile_while(
        &self,
        owner: &str,
        description: &Description,
        files: &BTreeMap<String, Arc<WeightFile>>,
        go_on: &mut dyn FnMut() -> Result<(), Error>,
    ) -> Result<Arc<Program>, Error> {
        let digest = description.digest();
        if let Some(program) = self.find(owner, &digest, files) {
            return Ok(program);
        }
        let key = key(owner, &digest, files);
        let make_room = |bytes| self.make_room(bytes);
        let program = Program::compile(digest, description, files, &self.weights, &make_room, go_on)?;
        Ok(self.lock().keep(key, Arc::new(program), self.capacity))
    }

    /// Lets programs go that hold weights and that nobody runs, those used longest ago first, until so many more bytes of weights find
    /// room: a weight leaves only when no program has it.
    fn make_room(&self, bytes: u64) {
        while !self.weights.has_room(bytes) {
            let mut cached = self.lock();
            let idle = |(_, entry): &(&Key, &Entry)| {
                Arc::strong_count(&entry.program) == 1 && !entry.program.description.weights.is_empty()
            };
            let oldest = cached.programs.iter().filter(idle).min_by_key(|(_, entry)| entry.used);
            let Some(gone) = oldest
                .map(|(key, _)| key.clone())
                .and_then(|key| cached.programs.remove(&key))
            else {
                return;
            };
            cached.bytes -= gone.program.bytes;
        }
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
        loop {
            let gone = if self.programs.len() >= capacity {
                self.oldest_of_the_largest(&key.0, 1, |_| 1)
            } else if self.bytes + program.bytes > MAX_CACHED_BYTES {
                self.oldest_of_the_largest(&key.0, program.bytes, |program| program.bytes)
            } else {
                None
            };
            let Some(gone) = gone.and_then(|key| self.programs.remove(&key)) else {
                break;
            };
            self.bytes -= gone.program.bytes;
        }
        self.bytes += program.bytes;
        let entry = Entry {
            program: Arc::clone(&program),
            used,
        };
        self.programs.insert(key, entry);
        program
    }

    /// The program used longest ago of the owner who would take the most once `owner` has taken `more`.
    fn oldest_of_the_largest(&self, owner: &str, more: usize, size: impl Fn(&Program) -> usize) -> Option<Key> {
        let mut taken = HashMap::from([(owner, more)]);
        for (key, entry) in &self.programs {
            *taken.entry(&key.0).or_default() += size(&entry.program);
        }
        let first = |(key, entry): &(&Key, &Entry)| (taken.get(key.0.as_str()).copied(), Reverse(entry.used));
        self.programs.iter().max_by_key(first).map(|(key, _)| key.clone())
    }
}

fn key(owner: &str, digest: &str, files: &BTreeMap<String, Arc<WeightFile>>) -> Key {
    let files = files.iter().map(|(name, file)| format!("{name}={}", file.digest()));
    (owner.to_owned(), digest.to_owned(), files.collect())
}

//! Programs with a key-value cache give what attention over the whole sequence gives, however the sequence is cut; a cache grows
//! only when a run succeeds, can be cut and forked, and is paid for: in the processor's pages as in the tensors of a device.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Plain, Random, apply, read, runtime, scope, scope_on, upload};
use maquette_tensor::ops::program::{CacheSpec, Description, Input, Node};
use maquette_tensor::ops::{Attr, Code, DType, Dim};
use maquette_tensor::{Control, Device, KvCache, Program, Scope, Tensor};
use proptest::prelude::*;

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const WIDTH: usize = 6;
const LAYERS: u32 = 2;

fn spec() -> CacheSpec {
    CacheSpec {
        layers: LAYERS,
        heads: KV_HEADS as u32,
        width: WIDTH as u32,
        value_width: WIDTH as u32,
    }
}

/// Two layers: the second attends with the first's output as its queries.
fn description(window: i64) -> Description {
    let input = |name: &str, heads: usize| Input {
        name: name.into(),
        dtype: DType::F32,
        shape: vec![Dim::from(1_u32), Dim::symbol(0), Dim::from(heads), Dim::from(WIDTH)],
    };
    let layer = |q: u32, layer: i64| Node {
        op: "cached_attention/1".into(),
        inputs: vec![q, 1, 2],
        attrs: vec![Attr::Int(0), Attr::Int(layer), Attr::Unset, Attr::Int(window)],
        location: format!("src/model.rs:{layer}"),
    };
    Description {
        symbols: vec!["t".into()],
        inputs: vec![input("q", HEADS), input("k", KV_HEADS), input("v", KV_HEADS)],
        caches: vec![spec()],
        nodes: vec![layer(0, 0), layer(3, 1)],
        outputs: vec![4],
        ..Description::default()
    }
}

fn compile(scope: &Scope, description: &Description) -> Arc<Program> {
    scope.compile(description, &BTreeMap::new()).unwrap()
}

struct Sequence {
    q: Plain,
    k: Plain,
    v: Plain,
}

impl Sequence {
    fn new(random: &mut Random, len: usize) -> Self {
        let mut plain = |heads: usize| Plain::from_fn(&[1, len, heads, WIDTH], |_| random.within(-2.0, 2.0));
        Self {
            q: plain(HEADS),
            k: plain(KV_HEADS),
            v: plain(KV_HEADS),
        }
    }

    fn part(&self, scope: &Scope, from: usize, to: usize) -> [Tensor; 3] {
        [&self.q, &self.k, &self.v].map(|plain| {
            let heads = plain.shape[2];
            let part = Plain::from_fn(&[1, to - from, heads, WIDTH], |p| {
                plain.at(&[0, from + p[1], p[2], p[3]])
            });
            upload(scope, &part, DType::F32)
        })
    }

    /// What attention over the first `len` places gives, without a cache.
    fn whole(&self, scope: &Scope, len: usize, window: i64) -> Plain {
        let [q, k, v] = self.part(scope, 0, len);
        let attrs = [Attr::Unset, Attr::Flag(true), Attr::Int(window)];
        let first = apply(scope, "attention/1", &[&q, &k, &v], &attrs);
        read(scope, &apply(scope, "attention/1", &[&first, &k, &v], &attrs))
    }

    fn run(&self, scope: &Scope, program: &Arc<Program>, cache: &KvCache, from: usize, to: usize) -> Plain {
        let [q, k, v] = self.part(scope, from, to);
        read(scope, &program.run_with(scope, &[&q, &k, &v], &[cache]).unwrap()[0])
    }
}

fn agree(found: &Plain, whole: &Plain, from: usize) {
    for (i, value) in found.data.iter().enumerate() {
        let expected = whole.data[from * HEADS * WIDTH + i];
        assert!((value - expected).abs() < 1e-5, "{i}: {value}, expected {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_sequence_in_pieces_is_the_sequence_as_a_whole_here_and_on_a_device(seed in 1_u64.., window in 0_i64..90, composed: bool) {
        let device = if composed { common::device() } else { Device::Cpu };
        let (scope, budget) = scope_on(&runtime(device), 1 << 28);
        let random = &mut Random(seed);
        let program = compile(&scope, &description(window));
        let len = 1 + random.below(200);
        let sequence = Sequence::new(random, len);
        let whole = sequence.whole(&scope, len, window);
        let cache = KvCache::new(&budget, spec(), 500).unwrap();
        let mut at = 0;
        while at < len {
            let next = len.min(at + 1 + random.below(80));
            agree(&sequence.run(&scope, &program, &cache, at, next), &whole, at);
            at = next;
            prop_assert_eq!(cache.len() as usize, at);
            // Back to somewhere, and on from there.
            if random.below(3) == 0 {
                at = random.below(at + 1);
                cache.truncate(at as u32).unwrap();
            }
        }
        drop((cache, program));
        prop_assert_eq!(budget.used(), 0);
    }
}

#[test]
fn on_a_device_forks_differ_and_a_run_that_fails_leaves_the_cache_as_it_was() {
    let (scope, budget) = scope_on(&runtime(common::device()), 1 << 28);
    let program = compile(&scope, &description(0));
    let (a, b) = (Sequence::new(&mut Random(5), 30), Sequence::new(&mut Random(6), 30));
    let cache = KvCache::new(&budget, spec(), 20).unwrap();
    a.run(&scope, &program, &cache, 0, 15);
    let refused = |scope: &Scope, to: usize| {
        let [q, k, v] = a.part(scope, 15, to);
        program.run_with(scope, &[&q, &k, &v], &[&cache]).unwrap_err().code
    };
    assert_eq!((refused(&scope, 30), cache.len()), (Code::InvalidInput, 15));
    let fork = cache.fork().unwrap();
    let ended = Control::default();
    ended.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
    let late = Scope::new(Arc::clone(scope.runtime()), Arc::clone(&budget), ended);
    let [q, k, v] = a.part(&scope, 15, 16);
    let error = program.run_with(&late, &[&q, &k, &v], &[&cache]).unwrap_err();
    assert_eq!((error.code, cache.len()), (Code::Cancelled, 15));
    b.run(&scope, &program, &fork, 15, 20);
    agree(&a.run(&scope, &program, &cache, 15, 20), &a.whole(&scope, 20, 0), 15);
    let held = budget.used();
    drop(fork);
    assert!(budget.used() < held, "what only the fork had is given back");
    drop((cache, q, k, v));
    assert_eq!(budget.used(), 0);
}

#[test]
fn forks_share_until_they_differ() {
    let (scope, budget) = scope(1 << 28);
    let program = compile(&scope, &description(0));
    let random = &mut Random(5);
    let (a, mut b) = (Sequence::new(random, 100), Sequence::new(random, 100));
    // The same beginning.
    for (from, to) in [(&a.q, &mut b.q), (&a.k, &mut b.k), (&a.v, &mut b.v)] {
        let row = from.shape[2] * WIDTH;
        to.data[..70 * row].copy_from_slice(&from.data[..70 * row]);
    }
    let cache = KvCache::new(&budget, spec(), 200).unwrap();
    let empty = budget.used();
    a.run(&scope, &program, &cache, 0, 70);
    let whole = budget.used();
    let fork = cache.fork().unwrap();
    let before = budget.used();
    assert!(
        before - whole < 256 && fork.len() == 70,
        "a fork costs its list of pages"
    );
    agree(&b.run(&scope, &program, &fork, 70, 100), &b.whole(&scope, 100, 0), 70);
    assert_eq!(cache.len(), 70);
    agree(&a.run(&scope, &program, &cache, 70, 100), &a.whole(&scope, 100, 0), 70);
    let page = budget.used() - before;
    assert_eq!(page, (whole - empty) / 2, "one of two pages of each layer was copied");
    drop(cache);
    assert_eq!(
        budget.used(),
        before - empty,
        "the shared pages live as long as the fork"
    );
    agree(&b.run(&scope, &program, &fork, 100, 100), &b.whole(&scope, 100, 0), 100);
    drop(fork);
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_run_that_fails_leaves_the_cache_as_it_was() {
    let (scope, budget) = scope(1 << 28);
    let program = compile(&scope, &description(0));
    let sequence = Sequence::new(&mut Random(7), 30);
    let cache = KvCache::new(&budget, spec(), 20).unwrap();
    sequence.run(&scope, &program, &cache, 0, 15);
    let [q, k, v] = sequence.part(&scope, 15, 30);
    let error = program.run_with(&scope, &[&q, &k, &v], &[&cache]).unwrap_err();
    assert_eq!(error.code, Code::InvalidInput);
    assert!(
        error.message.contains("15 of at most 20") && error.message.contains("15 more"),
        "{error}"
    );
    assert_eq!(cache.len(), 15);
    agree(
        &sequence.run(&scope, &program, &cache, 15, 20),
        &sequence.whole(&scope, 20, 0),
        15,
    );
    assert_eq!(cache.truncate(21).unwrap_err().code, Code::InvalidInput);

    // The budget ends before the capacity does.
    let (small, budget) = common::scope(20_000);
    let program = compile(&small, &description(0));
    let cache = KvCache::new(&budget, spec(), u32::MAX).unwrap();
    let [q, k, v] = sequence.part(&small, 0, 30);
    assert_eq!(
        program.run_with(&small, &[&q, &k, &v], &[&cache]).unwrap_err().code,
        Code::Quota
    );
    assert!(cache.is_empty());
}

#[test]
fn wrong_caches_are_refused_with_what_is_wrong() {
    let (scope, budget) = scope(1 << 28);
    let program = compile(&scope, &description(0));
    let sequence = Sequence::new(&mut Random(7), 3);
    let [q, k, v] = sequence.part(&scope, 0, 3);
    let run = |caches: &[&KvCache]| program.run_with(&scope, &[&q, &k, &v], caches).unwrap_err();
    assert!(run(&[]).message.contains("takes 1"));
    let other = CacheSpec { layers: 3, ..spec() };
    let other = KvCache::new(&budget, other, 10).unwrap();
    assert_eq!(run(&[&other]).code, Code::Shape);
    assert_eq!(
        KvCache::new(&budget, CacheSpec { width: 0, ..spec() }, 10)
            .unwrap_err()
            .code,
        Code::Shape
    );
    let many = CacheSpec {
        layers: 1 << 20,
        ..spec()
    };
    assert_eq!(KvCache::new(&budget, many, 10).unwrap_err().code, Code::Quota);

    let refused = |change: &dyn Fn(&mut Description)| {
        let mut description = description(0);
        change(&mut description);
        scope.compile(&description, &BTreeMap::new()).unwrap_err()
    };
    let error = refused(&|d| d.nodes[1].attrs[1] = Attr::Int(0));
    assert!(
        error.message.contains("twice") && error.message.contains("src/model.rs:1"),
        "{error}"
    );
    let error = refused(&|d| d.caches[0].layers = 3);
    assert!(error.message.contains("number 2"), "{error}");
    let error = refused(&|d| d.nodes[1].attrs[1] = Attr::Int(9));
    assert!(error.message.contains("has 2 layers"), "{error}");
    let error = refused(&|d| d.nodes[1].attrs[0] = Attr::Int(1));
    assert!(error.message.contains("cache 1"), "{error}");
    let error = refused(&|d| d.caches[0].heads = 1);
    assert!(error.message.contains("1 heads of 6"), "{error}");
}

#[test]
fn forks_without_end_are_refused_by_the_budget() {
    let (scope, budget) = scope(1 << 20);
    let cache = KvCache::new(&budget, spec(), 200).unwrap();
    let mut forks = Vec::new();
    let error = loop {
        match cache.fork() {
            Ok(fork) => forks.push(fork),
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, maquette_tensor::ops::Code::Quota);
    assert!(forks.len() < (1 << 20) / 24, "{} forks", forks.len());
    drop((cache, forks, scope));
    assert_eq!(budget.used(), 0);
}

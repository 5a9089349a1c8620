//! No op and no program hands out memory that it did not write: results do not depend on what lay there before.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use common::example::example;
use common::{Plain, Random, in_some_layout, scope, upload};
use maquette_tensor::Tensor;
use maquette_tensor::ops::program::{Description, Input, Node};
use maquette_tensor::ops::{Attr, DType, Dim, OpId, table};

/// Fills fresh memory with a pattern, as if another tenant's tensors had lain there.
struct Planting;

/// The pattern's byte; 0 for none.
static PATTERN: AtomicU8 = AtomicU8::new(0);

fn plant(ptr: *mut u8, from: usize, to: usize) {
    let pattern = PATTERN.load(Ordering::Relaxed);
    if pattern != 0 && !ptr.is_null() && to > from {
        // SAFETY: the allocation has `to` bytes, and nobody but the allocator has seen those from `from` on.
        unsafe { ptr.add(from).write_bytes(pattern, to - from) };
    }
}

// SAFETY: every call goes to the system's allocator unchanged; only bytes that are uninitialised are written to.
unsafe impl GlobalAlloc for Planting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        let ptr = unsafe { System.alloc(layout) };
        plant(ptr, 0, layout.size());
        ptr
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        // SAFETY: as the caller promised.
        let ptr = unsafe { System.realloc(ptr, layout, new) };
        plant(ptr, layout.size(), new);
        ptr
    }
}

#[global_allocator]
static ALLOCATOR: Planting = Planting;

/// One test at a time: the pattern is the process's.
static TURN: Mutex<()> = Mutex::new(());

/// What work gives when fresh memory holds one pattern and when it holds another.
fn on_two_patterns<T>(work: impl Fn() -> T) -> (T, T) {
    let with = |pattern: u8| {
        PATTERN.store(pattern, Ordering::Relaxed);
        let result = work();
        PATTERN.store(0, Ordering::Relaxed);
        result
    };
    (with(0xa5), with(0x3c))
}

#[test]
fn fresh_memory_holds_the_pattern() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let layout = Layout::array::<u8>(100_000).unwrap();
    let seen = on_two_patterns(|| {
        // SAFETY: the layout is not empty; the allocator above has written every byte that is read; it is freed as it was made.
        unsafe {
            let ptr = std::alloc::alloc(layout);
            let seen = (ptr.read_volatile(), ptr.add(99_999).read_volatile());
            std::alloc::dealloc(ptr, layout);
            seen
        }
    });
    assert_eq!(
        seen,
        ((0xa5, 0xa5), (0x3c, 0x3c)),
        "or the tests below would prove nothing"
    );
}

#[test]
fn no_op_hands_out_memory_that_it_did_not_write() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let mut ops = std::collections::BTreeSet::new();
    for (i, spec) in table().iter().enumerate() {
        for dtype in DType::ALL {
            for rank in 1..=3 {
                let (scope, _) = scope(1 << 30);
                let random = &mut Random(7 + i as u64);
                let (inputs, attrs) = example(spec, dtype, rank);
                let inputs: Vec<Tensor> = inputs
                    .iter()
                    .map(|(shape, dtype)| in_some_layout(&scope, random, &Plain::from_fn(shape, |_| 1.0), *dtype))
                    .collect();
                let refs: Vec<&Tensor> = inputs.iter().collect();
                let (one, two) = on_two_patterns(|| {
                    let output = scope.apply(OpId(i as u32), &refs, &attrs).ok()?;
                    scope.read(&output).ok()
                });
                assert!(
                    one == two,
                    "{} of {dtype} shows what lay in its memory before",
                    spec.name
                );
                if one.is_some() {
                    ops.insert(spec.name);
                }
            }
        }
    }
    let missing: Vec<_> = table()
        .iter()
        .map(|spec| spec.name)
        .filter(|name| !ops.contains(name))
        .collect();
    eprintln!(
        "{} of {} ops ran on planted memory; not run: {missing:?}",
        ops.len(),
        table().len()
    );
    assert!(ops.len() * 10 >= table().len() * 9, "not run: {missing:?}");
}

#[test]
fn no_program_hands_out_memory_of_another_run() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let node = |op: &str, inputs: &[u32], attrs: &[Attr]| Node {
        op: op.to_owned(),
        inputs: inputs.to_vec(),
        attrs: attrs.to_vec(),
        location: String::new(),
    };
    // Values large enough for their memory to be used again, several times over.
    let description = Description {
        inputs: vec![Input {
            name: "x".into(),
            dtype: DType::F32,
            shape: vec![Dim::from(256_u32); 2],
        }],
        nodes: vec![
            node("exp/1", &[0], &[]),
            node("add/1", &[1, 0], &[]),
            node("softmax/1", &[2], &[]),
            node("matmul/1", &[3, 2], &[]),
            node("gelu/1", &[4], &[]),
            node("sum/1", &[5], &[Attr::Ints(vec![1])]),
        ],
        outputs: vec![5, 6],
        ..Description::default()
    };
    let (scope, _) = scope(1 << 30);
    let program = scope.compile(&description, &BTreeMap::new()).unwrap();
    let x = |value: f64| upload(&scope, &Plain::from_fn(&[256, 256], |_| value), DType::F32);
    let (secret, plain) = (x(12.25), x(0.5));
    let (one, two) = on_two_patterns(|| {
        drop(program.run(&scope, &[&secret]).unwrap());
        let outputs = program.run(&scope, &[&plain]).unwrap();
        outputs
            .iter()
            .map(|output| scope.read(output).unwrap())
            .collect::<Vec<_>>()
    });
    assert!(one == two, "a program shows what lay in its memory before");
}

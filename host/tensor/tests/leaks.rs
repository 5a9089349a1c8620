//! No op and no program hands out memory that it did not write: results do not depend on what lay there before. With
//! MAQUETTE_TEST_DEVICE=cuda:0 a GPU's memory is planted, too.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};

use common::example::example;
use common::{Plain, Random, device, in_some_layout, runtime, scope_on, upload};
use maquette_tensor::ops::program::{Description, Input, Node};
use maquette_tensor::ops::{Attr, DType, Dim, Op, OpId, OpSpec, table};
use maquette_tensor::{Device, Scope, Tensor};

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

/// What work gives when the memory that it is given holds one pattern and when it holds another: on a processor whatever is fresh, on a
/// GPU what another call had, in pieces of every size that the work may ask for.
fn on_two_patterns_of<T>(device: Device, scope: impl Fn() -> Scope, work: impl Fn() -> T) -> (T, T) {
    if !matches!(device, Device::Cuda(_)) {
        return on_two_patterns(work);
    }
    let with = |pattern: u8| {
        let other = scope();
        let sizes = (9..20).flat_map(|log| vec![1_u32 << log; if log < 13 { 16 } else { 3 }]);
        let planted: Vec<Tensor> = sizes
            .map(|size| {
                other
                    .from_bytes(DType::U8, &[size], &vec![pattern; size as usize])
                    .unwrap()
            })
            .collect();
        drop(planted);
        // A read is behind all of it: the memory is free when it comes back.
        let last = upload(&other, &Plain::from_fn(&[1], |_| 0.0), DType::F32);
        other.read(&last).unwrap();
        work()
    };
    (with(0xa5), with(0x3c))
}

/// What was freed on a stream is given to the next who asks on it, as it is; a runtime has one stream. Needs MAQUETTE_TEST_DEVICE to name
/// a GPU.
#[cfg(feature = "cuda")]
#[test]
#[ignore = "needs a GPU"]
fn memory_of_a_gpu_holds_what_another_call_left_there() {
    let Device::Cuda(ordinal) = device() else {
        panic!("MAQUETTE_TEST_DEVICE must name a GPU, such as cuda:0")
    };
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // It tells the driver to keep what is freed.
    let _runtime = runtime(device());
    let raw = candle_core::Device::new_cuda(ordinal as usize).unwrap();
    for pattern in [0xa5_u8, 0x3c] {
        for len in [512_usize, 600, 4_096, 65_536] {
            drop(candle_core::Tensor::from_vec(vec![pattern; len], len, &raw).unwrap());
            raw.synchronize().unwrap();
            // SAFETY: bytes of any value are bytes; that they were never written is what is looked at.
            let found = unsafe { candle_core::Tensor::empty(len, candle_core::DType::U8, &raw) }.unwrap();
            let found = found.to_vec1::<u8>().unwrap();
            let held = found.iter().filter(|byte| **byte == pattern).count();
            assert!(
                held * 5 >= len * 4,
                "{held} of {len} bytes are {pattern:x}: the tests below would prove nothing"
            );
        }
    }
}

#[test]
fn no_op_hands_out_memory_that_it_did_not_write() {
    no_op_leaks(Device::Cpu);
}

#[test]
fn no_op_of_devices_hands_out_memory_that_it_did_not_write() {
    no_op_leaks(device());
}

fn no_op_leaks(device: Device) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = runtime(device);
    let there = |spec: &OpSpec| device == Device::Cpu || (spec.has_cuda() && spec.op != Op::CachedAttention);
    let mut ops = std::collections::BTreeSet::new();
    // The code of devices is not quick on a processor: two dtypes have to do.
    let dtypes = match device {
        Device::Composed => &[DType::F32, DType::U8][..],
        Device::Cpu | Device::Cuda(_) => &DType::ALL[..],
    };
    for (i, spec) in table().iter().enumerate().filter(|(_, spec)| there(spec)) {
        for dtype in dtypes.iter().copied() {
            for rank in 1..=3 {
                let (scope, _) = scope_on(&runtime, 1 << 30);
                let random = &mut Random(7 + i as u64);
                let (inputs, attrs) = example(spec, dtype, rank);
                let inputs: Vec<Tensor> = inputs
                    .iter()
                    .map(|(shape, dtype)| in_some_layout(&scope, random, &Plain::from_fn(shape, |_| 1.0), *dtype))
                    .collect();
                let refs: Vec<&Tensor> = inputs.iter().collect();
                let run = || {
                    let output = scope.apply(OpId(i as u32), &refs, &attrs).ok()?;
                    scope.read(&output).ok()
                };
                let (one, two) = on_two_patterns_of(device, || scope_on(&runtime, 1 << 30).0, run);
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
    let all = table().iter().filter(|spec| there(spec)).count();
    let missing: Vec<_> = table()
        .iter()
        .filter(|spec| there(spec))
        .map(|spec| spec.name)
        .filter(|name| !ops.contains(name))
        .collect();
    eprintln!(
        "{} of {all} ops ran on planted memory of {device}; not run: {missing:?}",
        ops.len()
    );
    assert!(ops.len() * 10 >= all * 9, "not run: {missing:?}");
}

#[test]
fn no_program_hands_out_memory_of_another_run() {
    no_program_leaks(Device::Cpu);
}

#[test]
fn no_program_on_a_device_hands_out_memory_of_another_run() {
    no_program_leaks(device());
}

fn no_program_leaks(device: Device) {
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
    let runtime = runtime(device);
    let (scope, _) = scope_on(&runtime, 1 << 30);
    let program = scope.compile(&description, &BTreeMap::new()).unwrap();
    let x = |value: f64| upload(&scope, &Plain::from_fn(&[256, 256], |_| value), DType::F32);
    let (secret, plain) = (x(12.25), x(0.5));
    let run = || {
        drop(program.run(&scope, &[&secret]).unwrap());
        let outputs = program.run(&scope, &[&plain]).unwrap();
        outputs
            .iter()
            .map(|output| scope.read(output).unwrap())
            .collect::<Vec<_>>()
    };
    let (one, two) = on_two_patterns_of(device, || scope_on(&runtime, 1 << 30).0, run);
    assert!(one == two, "a program shows what lay in its memory before");
}

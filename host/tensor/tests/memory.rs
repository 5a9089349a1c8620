//! The budget covers what is allocated: a counting allocator watches every op and every program.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use common::example::{example, of_shape};
use common::{Plain, Random, apply, encode, in_some_layout, runtime, scope, scope_on, upload};
use maquette_tensor::ops::program::{Description, Input, Node};
use maquette_tensor::ops::{Attr, DType, Dim, OpId, OpSpec, PIECE, table};
use maquette_tensor::{Device, Runtime, Scope, Tensor};

/// Counts the bytes that are allocated, and the most at once.
struct Counting;

static NOW: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);
static ON: AtomicBool = AtomicBool::new(false);

fn note(bytes: i64) {
    if ON.load(Ordering::Relaxed) {
        let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(now, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        note(-(layout.size() as i64));
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        note(new as i64 - layout.size() as i64);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(ptr, layout, new) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One measurement at a time.
static TURN: Mutex<()> = Mutex::new(());

/// What a piece of work leaves allocated and the most that it had, in bytes.
fn measured<T>(work: impl FnOnce() -> T) -> (T, i64, i64) {
    NOW.store(0, Ordering::Relaxed);
    PEAK.store(0, Ordering::Relaxed);
    ON.store(true, Ordering::Relaxed);
    let result = work();
    ON.store(false, Ordering::Relaxed);
    (result, NOW.load(Ordering::Relaxed), PEAK.load(Ordering::Relaxed))
}

/// Handles, shapes, and what thread pools keep for themselves.
const SLACK: i64 = 8 << 10;

/// What the matrix kernel packs its operands into, a block at a time; each thread keeps its own.
const PACKING: i64 = 8 << 20;

/// What devices do by products and the processor otherwise.
const PRODUCTS: [&str; 8] = [
    "conv1d/1",
    "conv_transpose1d/1",
    "adaptive_avg_pool2d/1",
    "resize_bilinear2d/1",
    "resize_linear1d/1",
    "stft/1",
    "lstm/1",
    "gru/1",
];

#[test]
fn no_op_allocates_more_than_the_budget_was_charged() {
    every_op_stays_within_its_charge(Device::Cpu);
}

#[test]
fn no_op_of_devices_allocates_more_than_the_budget_was_charged() {
    every_op_stays_within_its_charge(Device::Composed);
}

fn every_op_stays_within_its_charge(device: Device) {
    let runtime = runtime(device);
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    // Thread pools start outside the measurements.
    rayon::join(|| (), || ());
    let mut tried = 0;
    let mut ops = std::collections::BTreeSet::new();
    let there = |spec: &OpSpec| device == Device::Cpu || spec.has_cuda();
    for (i, spec) in table().iter().enumerate().filter(|(_, spec)| there(spec)) {
        for dtype in DType::ALL {
            for rank in 1..=3 {
                for seed in 1..=(if device == Device::Cpu { 2 } else { 1 }) {
                    let random = &mut Random(seed * 77 + i as u64);
                    let (inputs, attrs) = example(spec, dtype, rank);
                    let upload = |scope: &Scope, shape: &[usize], dtype| {
                        let ones = Plain::from_fn(shape, |_| 1.0);
                        in_some_layout(scope, random, &ones, dtype)
                    };
                    if stays_within_its_charge(&runtime, device, i, &inputs, &attrs, upload) {
                        tried += 1;
                        ops.insert(spec.name);
                    }
                }
            }
        }
    }
    assert!(tried > if device == Device::Cpu { 700 } else { 300 }, "{tried}");
    let images = table()
        .iter()
        .map(|spec| spec.name)
        .skip_while(|name| *name != "conv2d/1")
        .take(20);
    let skipped: Vec<&str> = images.filter(|name| !ops.contains(name)).collect();
    assert!(skipped.is_empty(), "{skipped:?} never ran");
}

#[test]
fn no_op_of_large_tensors_allocates_more_than_the_budget_was_charged_for_them_and_their_pieces() {
    let runtime = runtime(Device::Cpu);
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    rayon::join(|| (), || ());
    let elements = |shape: &[usize]| shape.iter().product::<usize>();
    // Lines, a single row, and rows of rows: all too large to be computed at once.
    let shapes = [&[3 * PIECE + 5][..], &[1, 3 * PIECE + 5], &[4, 110, 1000]];
    let mut ops = std::collections::BTreeSet::new();
    for (i, spec) in table().iter().enumerate() {
        for (dtype, rank) in [
            (DType::F32, 1),
            (DType::F32, 2),
            (DType::F32, 3),
            (DType::F16, 2),
            (DType::F16, 3),
            (DType::I64, 1),
            (DType::I64, 3),
        ] {
            let random = &mut Random(i as u64 + 1);
            let (inputs, attrs) = of_shape(spec, dtype, rank, shapes[rank - 1]);
            if inputs.iter().all(|(shape, _)| elements(shape) <= 2 * PIECE) {
                continue;
            }
            // Dense, transposed, or a part of something larger.
            let upload = |scope: &Scope, shape: &[usize], dtype: DType| {
                let mut shape: Vec<u32> = shape.iter().map(|dim| *dim as u32).collect();
                let ones = |shape: &[u32]| {
                    let count = shape.iter().product::<u32>() as usize;
                    scope
                        .from_bytes(dtype, shape, &encode(&[1.0], dtype).repeat(count))
                        .unwrap()
                };
                let last = shape.len() - 1;
                match random.below(3) {
                    1 if last > 0 => {
                        shape.swap(0, last);
                        apply(
                            scope,
                            "transpose/1",
                            &[&ones(&shape)],
                            &[Attr::Int(0), Attr::Int(last as i64)],
                        )
                    }
                    2 => {
                        let len = Attr::Int(i64::from(shape[last]));
                        shape[last] += 3;
                        let part = [Attr::Int(last as i64), Attr::Int(1), len];
                        apply(scope, "narrow/1", &[&ones(&shape)], &part)
                    }
                    _ => ones(&shape),
                }
            };
            if stays_within_its_charge(&runtime, Device::Cpu, i, &inputs, &attrs, upload) {
                ops.insert(spec.name);
            }
        }
    }
    println!("{} ops", ops.len());
    assert!(ops.len() > 70, "{ops:?}");
}

/// Runs an op, and asserts that it was charged for what it allocates and leaves; whether it takes such inputs at all.
fn stays_within_its_charge(
    runtime: &Arc<Runtime>,
    device: Device,
    op: usize,
    inputs: &[(Vec<usize>, DType)],
    attrs: &[Attr],
    mut upload: impl FnMut(&Scope, &[usize], DType) -> Tensor,
) -> bool {
    let spec = &table()[op];
    let (scope, budget) = scope_on(runtime, 1 << 30);
    let inputs: Vec<Tensor> = inputs
        .iter()
        .map(|(shape, dtype)| upload(&scope, shape, *dtype))
        .collect();
    let refs: Vec<&Tensor> = inputs.iter().collect();
    let run = || {
        let output = scope.apply(OpId(op as u32), &refs, attrs)?;
        // A device has run it when a read of nothing comes back.
        scope.read_range(&output, 0, 0).map(|_| output)
    };
    // The first run fills caches of the thread pools and the matrix kernel.
    if run().is_err() {
        return false;
    }
    let before = budget.used() as i64;
    let (output, left, peak) = measured(run);
    let output = output.unwrap();
    let charged = budget.used() as i64 - before;
    let shapes: Vec<Vec<u32>> = refs.iter().map(|t| t.shape().to_vec()).collect();
    let what = || {
        format!(
            "{} of {} {shapes:?}",
            spec.name,
            inputs.first().map_or(DType::F32, Tensor::dtype)
        )
    };
    let slack = if matches!(
        spec.name,
        "matmul/1" | "linear/1" | "attention/1" | "conv2d/1" | "conv_transpose2d/1"
    ) || device != Device::Cpu && PRODUCTS.contains(&spec.name)
    {
        PACKING
    } else {
        SLACK
    };
    assert!(left <= charged + slack, "{}: {left} left of {charged} charged", what());
    let most = budget.peak() as i64 - before;
    assert!(peak <= most + slack, "{}: {peak} allocated, {most} charged", what());
    let what = what();
    // What the output keeps alive stays paid for when its inputs are gone.
    drop(refs);
    let ((), freed, _) = measured(|| drop(inputs));
    let held = before + left + freed;
    assert!(held <= budget.used() as i64 + slack, "{what}: {held} held");
    drop(output);
    assert_eq!(budget.used(), 0);
    true
}

fn node(op: &str, inputs: &[u32], attrs: &[Attr]) -> Node {
    Node {
        op: op.to_owned(),
        inputs: inputs.to_vec(),
        attrs: attrs.to_vec(),
        location: String::new(),
    }
}

/// Runs a program of one input `x` `[n, 128]` with 96 rows, and returns what it left, what it allocated, what it was charged.
fn program(nodes: Vec<Node>, outputs: &[u32]) -> (i64, i64, i64, i64) {
    let description = Description {
        symbols: vec!["n".into()],
        inputs: vec![Input {
            name: "x".into(),
            dtype: DType::F32,
            shape: vec![Dim::symbol(0), Dim::from(128_u32)],
        }],
        nodes,
        outputs: outputs.to_vec(),
        ..Description::default()
    };
    let (scope, budget) = scope(1 << 30);
    let program = scope.compile(&description, &std::collections::BTreeMap::new()).unwrap();
    let x = upload(&scope, &Plain::from_fn(&[96, 128], |_| 0.5), DType::F32);
    drop(program.run(&scope, &[&x]).unwrap());
    let before = budget.used() as i64;
    let (outputs, left, peak) = measured(|| program.run(&scope, &[&x]).unwrap());
    let result = (left, budget.used() as i64 - before, peak, budget.peak() as i64 - before);
    drop(outputs);
    result
}

#[test]
fn programs_stay_within_what_they_were_charged() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let narrow = |input: u32| node("narrow/1", &[input], &[Attr::Int(0), Attr::Int(0), Attr::Int(1)]);
    let flat = |input: u32| node("reshape/1", &[input], &[Attr::Ints(vec![-1])]);
    let cases: Vec<(&str, Vec<Node>, Vec<u32>)> = vec![
        (
            "a small part of something large",
            vec![node("exp/1", &[0], &[]), narrow(1)],
            vec![2],
        ),
        (
            "small parts of many large values, all alive at once",
            (0..8)
                .flat_map(|i| {
                    let at = i * 3;
                    vec![node("exp/1", &[0], &[]), narrow(at + 1), flat(at + 2)]
                })
                .chain([node(
                    "stack/1",
                    &(0..8).map(|i| i * 3 + 3).collect::<Vec<_>>(),
                    &[Attr::Int(0)],
                )])
                .collect(),
            vec![25],
        ),
        (
            "a transpose made real",
            vec![
                node("exp/1", &[0], &[]),
                node("transpose/1", &[1], &[Attr::Int(0), Attr::Int(1)]),
                flat(2),
                node("transpose/1", &[1], &[Attr::Int(0), Attr::Int(1)]),
            ],
            vec![3, 4],
        ),
        ("a part of an input", vec![narrow(0), flat(1)], vec![1, 2]),
        ("the input itself", vec![], vec![0, 0]),
        (
            "a single number everywhere",
            vec![
                node(
                    "full/1",
                    &[],
                    &[Attr::Dims(vec![Dim::symbol(0), Dim::from(128_u32)]), Attr::Int(3)],
                ),
                node("add/1", &[0, 1], &[]),
            ],
            vec![1, 2],
        ),
        (
            "products of what is transposed, repeated and cut",
            vec![
                node("transpose/1", &[0], &[Attr::Int(0), Attr::Int(1)]),
                node("matmul/1", &[0, 1], &[]),
                node("unsqueeze/1", &[2], &[Attr::Int(0)]),
                node(
                    "broadcast_to/1",
                    &[3],
                    &[Attr::Dims(vec![Dim::from(3_u32), Dim::symbol(0), Dim::symbol(0)])],
                ),
                node("matmul/1", &[4, 4], &[]),
                node("softmax/1", &[5], &[Attr::Int(0)]),
                node("sum/1", &[6], &[Attr::Ints(vec![0])]),
            ],
            vec![7],
        ),
    ];
    for (what, nodes, outputs) in cases {
        let (left, kept, peak, most) = program(nodes, &outputs);
        let slack = if what.starts_with("products") { PACKING } else { SLACK };
        assert!(left <= kept + slack, "{what}: {left} left, {kept} charged");
        assert!(peak <= most + slack, "{what}: {peak} allocated, {most} charged");
    }
}

#[test]
fn a_part_of_a_large_tensor_keeps_all_of_it_charged() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (scope, budget) = scope(1 << 30);
    let bytes = 96 * 128 * 4;
    for (op, attrs) in [
        ("cat/1", vec![Attr::Int(0)]),
        ("stack/1", vec![Attr::Int(0)]),
        ("cast/1", vec![Attr::DType(DType::F32)]),
        ("pad/1", vec![Attr::Int(0), Attr::Int(0), Attr::Int(0)]),
        ("reshape/1", vec![Attr::Ints(vec![-1])]),
    ] {
        let large = upload(&scope, &Plain::from_fn(&[96, 128], |_| 1.0), DType::F32);
        let part = apply(
            &scope,
            "narrow/1",
            &[&large],
            &[Attr::Int(0), Attr::Int(3), Attr::Int(1)],
        );
        let output = apply(&scope, op, &[&part], &attrs);
        drop((large, part));
        assert_eq!(budget.used(), bytes, "{op}");
        drop(output);
        assert_eq!(budget.used(), 0, "{op}");
    }
}

//! The budget covers what is allocated: a counting allocator watches every op and every program.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use common::{Plain, Random, apply, in_some_layout, runtime, scope, scope_on, upload};
use maquette_tensor::ops::program::{Description, Input, Node};
use maquette_tensor::ops::{Attr, AttrKind, DType, Dim, Occurs, OpId, OpSpec, table};
use maquette_tensor::{Device, Tensor};

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

/// Inputs of some 10,000 elements each that the op takes, and attributes.
fn example(spec: &OpSpec, dtype: DType, rank: usize) -> (Vec<(Vec<usize>, DType)>, Vec<Attr>) {
    let shape = match rank {
        1 => vec![12 * 1024],
        2 => vec![96, 128],
        _ => vec![4, 48, 64],
    };
    let last = shape[shape.len() - 1];
    let index = DType::U32;
    let inputs = match spec.name {
        "where/1" => vec![(shape.clone(), index), (shape.clone(), dtype), (shape.clone(), dtype)],
        "embedding/1" => vec![(vec![96, 128], dtype), (vec![128], index)],
        "index_select/1" => vec![(shape.clone(), dtype), (vec![64], index)],
        "matmul/1" if rank == 1 => vec![(vec![4, 48, 64], dtype), (vec![64, 48], dtype)],
        "matmul/1" => vec![(vec![4, 48, 64], dtype), (vec![[1, 4][rank % 2], 64, 48], dtype)],
        "linear/1" => vec![(vec![4, 24, 64], dtype), (vec![96, 64], dtype), (vec![96], dtype)],
        "layer_norm/1" => vec![(shape.clone(), dtype), (vec![last], dtype)],
        "rms_norm/1" => vec![(shape.clone(), dtype), (vec![last], dtype)],
        "rope/1" => vec![(vec![4, 24, 2, 64], dtype), (vec![24], index)],
        "attention/1" => vec![(vec![4, 24, 2, 64], dtype); 3],
        "squeeze/1" => vec![([&[1][..], &shape].concat(), dtype)],
        "sample/1" if rank == 1 => vec![(shape.clone(), dtype), (vec![200], index)],
        "sample/1" => vec![(vec![48, 1024], dtype), (vec![48, 5], index)],
        "gather/1" => vec![(shape.clone(), dtype), (shape.clone(), index)],
        "scatter/1" | "scatter_add/1" => vec![(shape.clone(), dtype), (shape.clone(), index), (shape.clone(), dtype)],
        "index_add/1" => {
            let src = [&[64][..], &shape[1..]].concat();
            vec![(shape.clone(), dtype), (vec![64], index), (src, dtype)]
        }
        // Wide ones, thin ones, and one with more channels than a panel has rows.
        "conv1d/1" | "conv_transpose1d/1" => {
            let (n, c, o, l) = [(1, 64, 100, 100), (40, 4, 4, 30), (2, 1100, 8, 40)][rank - 1];
            let weight = if spec.name == "conv1d/1" { [o, c, 3] } else { [c, o, 3] };
            vec![(vec![n, c, l], dtype), (weight.to_vec(), dtype), (vec![o], dtype)]
        }
        "lstm/1" | "gru/1" => {
            let (b, t, h) = [(1, 100, 48), (8, 9, 33), (3, 2, 130)][rank - 1];
            let rows = if spec.name == "lstm/1" { 4 * h } else { 3 * h };
            let mut shapes = vec![vec![b, t, 20], vec![rows, 20], vec![rows, h], vec![rows], vec![rows]];
            shapes.resize(spec.inputs.len(), vec![b, h]);
            shapes.into_iter().map(|shape| (shape, dtype)).collect()
        }
        "resize_linear1d/1" | "resize_nearest1d/1" => vec![(vec![4, 48, 64], dtype)],
        // Frames of 200, 74, whose factor is large, and 225, which is odd.
        "stft/1" => vec![(vec![rank, 9_000], dtype), (vec![64], dtype)],
        "istft/1" => vec![
            (vec![rank, [101, 38, 113][rank - 1], 90, 2], dtype),
            (vec![[200, 74, 225][rank - 1]], dtype),
        ],
        "snake/1" => vec![(vec![4, 48, 64], dtype), (vec![48], dtype)],
        "broadcast_to/1" => vec![(vec![1], dtype)],
        "conv2d/1" if rank == 1 => vec![(vec![2, 8, 24, 24], dtype), (vec![8, 1, 3, 3], dtype)],
        "conv2d/1" if rank == 2 => vec![
            (vec![2, 32, 12, 12], dtype),
            (vec![24, 32, 1, 1], dtype),
            (vec![24], dtype),
        ],
        "conv2d/1" => vec![
            (vec![2, 8, 24, 24], dtype),
            (vec![16, 8, 3, 3], dtype),
            (vec![16], dtype),
        ],
        "conv_transpose2d/1" => vec![
            (vec![2, 16, 20, 20], dtype),
            (vec![16, 12, 3, 3], dtype),
            (vec![12], dtype),
        ],
        "max_pool2d/1" | "avg_pool2d/1" | "adaptive_avg_pool2d/1" | "resize_nearest2d/1" | "resize_bilinear2d/1" => {
            vec![(vec![2, 8, 24, 32], dtype)]
        }
        "pixel_shuffle/1" | "pixel_unshuffle/1" => vec![(vec![2, 8, 24, 32], dtype)],
        "group_norm/1" if rank == 1 => vec![(vec![2, 5120], dtype), (vec![5120], dtype), (vec![5120], dtype)],
        "group_norm/1" => vec![(vec![2, 8, 24, 32], dtype), (vec![8], dtype), (vec![8], dtype)],
        "batch_norm/1" => [vec![(vec![2, 8, 24, 32], dtype)], vec![(vec![8], dtype); 4]].concat(),
        "prelu/1" => vec![(vec![2, 8, 24, 32], dtype), (vec![8], dtype)],
        _ => spec
            .inputs
            .iter()
            .flat_map(|input| vec![(shape.clone(), dtype); 1 + usize::from(input.occurs == Occurs::Repeated)])
            .collect(),
    };
    let ints = |shape: &[usize]| Attr::Ints(shape.iter().map(|n| *n as i64).collect());
    let attrs = spec.attrs.iter().map(|attr| match (spec.name, attr.name, attr.kind) {
        ("reshape/1", ..) => Attr::Ints(vec![-1]),
        ("permute/1", ..) => ints(&(0..shape.len()).rev().collect::<Vec<_>>()),
        ("transpose/1", "dim2", _) => Attr::Int(-1),
        ("clamp/1", "max", _) => Attr::Int(1),
        ("conv2d/1", "groups", _) => Attr::Int(if rank == 1 { 8 } else { 1 }),
        ("group_norm/1", "groups", _) => Attr::Int(4),
        (_, "kernel", _) => Attr::Int(3),
        ("resize_linear1d/1" | "resize_nearest1d/1", "size", _) => Attr::Int(100),
        (_, "size", _) => ints(&[40, 50]),
        (_, "factor", _) => Attr::Int(2),
        ("sample/1", "top_k", _) => Attr::Int([0, 300, 40][rank - 1]),
        ("sample/1", "top_p", _) => Attr::Float([0.99, 1.0, 0.9][rank - 1]),
        ("sample/1", "repetition_penalty", _) => Attr::Float(1.2),
        ("topk/1", "k", _) => Attr::Int([3000, 20, 9][rank - 1]),
        (_, "n_fft", _) => Attr::Int([200, 74, 225][rank - 1]),
        (_, "hop", _) => Attr::Int(20),
        ("istft/1", "length", _) => Attr::Int(1500),
        ("istft/1", "center", _) => Attr::Flag(false),
        ("one_hot/1", "depth", _) => Attr::Int(7),
        ("repeat/1", ..) => ints(&vec![2; shape.len()]),
        ("repeat_interleave/1", "times", _) => Attr::Int(3),
        ("roll/1", "shift", _) => Attr::Int(5),
        ("pad_reflect/1" | "pad_replicate/1", "left" | "right", _) => Attr::Int(1),
        (_, _, AttrKind::Int(None)) => Attr::Int(1),
        (_, "dtype", _) => Attr::DType(if spec.name == "cast/1" { DType::F32 } else { dtype }),
        (_, "len", _) => Attr::Int(if spec.name == "narrow/1" { 1 } else { 200 }),
        (_, _, AttrKind::Shape) => ints(&shape),
        (_, _, AttrKind::Size) => Attr::Int(0),
        (_, _, AttrKind::Axis(None)) => Attr::Int(0),
        (_, _, AttrKind::Float(None)) => Attr::Int(1),
        _ => Attr::Unset,
    });
    (inputs, attrs.collect())
}

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
                    let (scope, budget) = scope_on(&runtime, 1 << 30);
                    let random = &mut Random(seed * 77 + i as u64);
                    let (inputs, attrs) = example(spec, dtype, rank);
                    let upload = |(shape, dtype): &(Vec<usize>, DType)| {
                        let ones = Plain::from_fn(shape, |_| 1.0);
                        in_some_layout(&scope, random, &ones, *dtype)
                    };
                    let inputs: Vec<Tensor> = inputs.iter().map(upload).collect();
                    let refs: Vec<&Tensor> = inputs.iter().collect();
                    let run = || {
                        let output = scope.apply(OpId(i as u32), &refs, &attrs)?;
                        // A device has run it when a read of nothing comes back.
                        scope.read_range(&output, 0, 0).map(|_| output)
                    };
                    // The first run fills caches of the thread pools and the matrix kernel.
                    let Ok(_) = run() else { continue };
                    tried += 1;
                    ops.insert(spec.name);
                    let before = budget.used() as i64;
                    let (output, left, peak) = measured(run);
                    let output = output.unwrap();
                    let charged = budget.used() as i64 - before;
                    let shapes: Vec<Vec<u32>> = refs.iter().map(|t| t.shape().to_vec()).collect();
                    let what = || format!("{} of {dtype} {:?}", spec.name, shapes);
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
                    // What the output keeps alive stays paid for when its inputs are gone.
                    drop(refs);
                    let ((), freed, _) = measured(|| drop(inputs));
                    let held = before + left + freed;
                    assert!(held <= budget.used() as i64 + slack, "{}: {held} held", what());
                    drop(output);
                    assert_eq!(budget.used(), 0);
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

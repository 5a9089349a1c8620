//! A call that has to stop leaves the op that it is in, whichever that is; and what is computed piece by piece, so that it can be left,
//! is what it is as a whole. `cargo test -p maquette-tensor --test stops -- --nocapture` prints how long leaving takes.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::{apply, read, runtime};
use maquette_tensor::ops::{Attr, Code, DType, lookup};
use maquette_tensor::{Budget, Control, Device, Runtime, Scope, Tensor};

/// A budget in which every input and output fits.
const BUDGET: u64 = 3 << 30;

/// After how long a call has to stop here.
const SOON: Duration = Duration::from_millis(15);

/// How long leaving may take on a machine that is loaded many times over. Most ops below take that long or longer as a whole where
/// they are not left; reductions take a tenth of it, and one that is not left would simply succeed.
const LEFT: Duration = Duration::from_millis(2500);

/// Tensors of any values, dense, quickly.
struct Maker {
    runtime: Arc<Runtime>,
    budget: Arc<Budget>,
    scope: Scope,
}

impl Maker {
    fn new() -> Self {
        let (runtime, budget) = (runtime(Device::Cpu), Budget::new(BUDGET));
        let scope = Scope::new(Arc::clone(&runtime), Arc::clone(&budget), Control::default());
        Self { runtime, budget, scope }
    }

    fn under(&self, control: Control) -> Scope {
        Scope::new(Arc::clone(&self.runtime), Arc::clone(&self.budget), control)
    }

    fn floats(&self, shape: &[u32]) -> Tensor {
        let attrs = [ints(shape), Attr::Int(7), Attr::Int(0)];
        apply(&self.scope, "rand_uniform/1", &[], &attrs)
    }

    fn cast(&self, x: &Tensor, dtype: DType) -> Tensor {
        apply(&self.scope, "cast/1", &[x], &[Attr::DType(dtype)])
    }

    fn zeros(&self, shape: &[u32], dtype: DType) -> Tensor {
        let full = apply(
            &self.scope,
            "full/1",
            &[],
            &[ints(shape), Attr::Float(0.0), Attr::DType(dtype)],
        );
        let all: u32 = shape.iter().product();
        let flat = apply(&self.scope, "reshape/1", &[&full], &[ints(&[all])]);
        apply(&self.scope, "reshape/1", &[&flat], &[ints(shape)])
    }

    fn view(&self, op: &str, x: &Tensor, attrs: &[i64]) -> Tensor {
        let attrs: Vec<Attr> = attrs.iter().map(|n| Attr::Int(*n)).collect();
        apply(&self.scope, op, &[x], &attrs)
    }
}

fn ints(shape: &[u32]) -> Attr {
    Attr::Ints(shape.iter().map(|dim| i64::from(*dim)).collect())
}

/// An op that takes long as a whole.
struct Long {
    op: &'static str,
    inputs: Vec<Tensor>,
    attrs: Vec<Attr>,
}

fn long(op: &'static str, inputs: Vec<Tensor>, attrs: Vec<Attr>) -> Long {
    Long { op, inputs, attrs }
}

const M: u32 = 1 << 20;

/// One after the other, so that their memory is not there at once.
#[allow(clippy::type_complexity, reason = "a list of what makes each")]
fn long_ops() -> Vec<Box<dyn Fn(&Maker) -> Long>> {
    let one = Attr::Int(1);
    let int = |n: i64| Attr::Int(n);
    vec![
        Box::new(|m| {
            long(
                "matmul/1",
                vec![m.floats(&[4096, 4096]), m.floats(&[4096, 4096])],
                vec![],
            )
        }),
        Box::new(|m| {
            long(
                "matmul/1",
                vec![m.floats(&[64, 512, 512]), m.floats(&[1, 512, 2048])],
                vec![],
            )
        }),
        Box::new(|m| {
            let half = |x: Tensor| m.cast(&x, DType::BF16);
            long(
                "matmul/1",
                vec![half(m.floats(&[2048, 4096])), half(m.floats(&[4096, 4096]))],
                vec![],
            )
        }),
        Box::new(|m| {
            long(
                "linear/1",
                vec![m.floats(&[8192, 2048]), m.floats(&[4096, 2048])],
                vec![],
            )
        }),
        Box::new(|m| {
            let x = m.floats(&[1, 65_536, 1, 64]);
            long("attention/1", vec![x.clone(), x.clone(), x], vec![])
        }),
        Box::new(|m| {
            long(
                "conv2d/1",
                vec![m.floats(&[1, 64, 512, 512]), m.floats(&[128, 64, 5, 5])],
                vec![],
            )
        }),
        Box::new(|m| {
            long(
                "conv2d/1",
                vec![m.floats(&[1, 1, 2048, 2048]), m.floats(&[1, 1, 64, 64])],
                vec![],
            )
        }),
        Box::new(|m| {
            long(
                "conv_transpose2d/1",
                vec![m.floats(&[1, 64, 256, 256]), m.floats(&[64, 32, 9, 9])],
                vec![],
            )
        }),
        Box::new(|m| {
            long(
                "conv1d/1",
                vec![m.floats(&[1, 128, M / 4]), m.floats(&[128, 128, 9])],
                vec![],
            )
        }),
        Box::new(|m| {
            long(
                "conv1d/1",
                vec![m.floats(&[1, 1, 8 * M]), m.floats(&[1, 1, 2048])],
                vec![],
            )
        }),
        Box::new(|m| {
            long(
                "conv_transpose1d/1",
                vec![m.floats(&[1, 64, M / 8]), m.floats(&[64, 64, 32])],
                vec![],
            )
        }),
        Box::new(|m| {
            let windows = vec![Attr::Ints(vec![1500, 1500]), Attr::Ints(vec![1, 1])];
            long("max_pool2d/1", vec![m.floats(&[1, 1, 4096, 4096])], windows)
        }),
        Box::new(|m| {
            long(
                "lstm/1",
                vec![
                    m.floats(&[1, 100_000, 64]),
                    m.floats(&[2048, 64]),
                    m.floats(&[2048, 512]),
                ],
                vec![],
            )
        }),
        Box::new(|m| long("argsort/1", vec![m.floats(&[16 * M])], vec![])),
        Box::new(move |m| long("topk/1", vec![m.floats(&[1, 32 * M])], vec![int(8 * i64::from(M))])),
        Box::new(move |m| {
            let (hop, flag) = (int(1024), Attr::Flag(false));
            long(
                "stft/1",
                vec![m.floats(&[1, 16 * M]), m.floats(&[4096])],
                vec![int(4096), hop, flag.clone(), flag],
            )
        }),
        Box::new(|m| long("softmax/1", vec![m.floats(&[1, 48 * M])], vec![])),
        Box::new(|m| long("pow/1", vec![m.floats(&[1, 48 * M]), m.floats(&[1])], vec![])),
        Box::new(move |m| long("cumsum/1", vec![m.floats(&[1, 48 * M])], vec![one.clone()])),
        Box::new(|m| {
            long(
                "powf/1",
                vec![m.cast(&m.floats(&[32 * M]), DType::F16)],
                vec![Attr::Float(1.3)],
            )
        }),
        Box::new(|m| long("log/1", vec![m.floats(&[48 * M])], vec![])),
        Box::new(|m| {
            let x = m.floats(&[4096, 8192]);
            let turned = m.view("transpose/1", &x, &[0, 1]);
            long("reshape/1", vec![turned], vec![ints(&[32 * M])])
        }),
        Box::new(|m| {
            let x = m.floats(&[8192, 4096]);
            let turned = m.view("transpose/1", &x, &[0, 1]);
            long("maximum/1", vec![turned, m.floats(&[4096, 8192])], vec![])
        }),
        Box::new(move |m| {
            let ids = m.zeros(&[32 * M], DType::U32);
            long("gather/1", vec![m.floats(&[M]), ids], vec![Attr::Int(0)])
        }),
        Box::new(move |m| {
            let ids = m.zeros(&[32 * M], DType::U32);
            long(
                "index_select/1",
                vec![m.floats(&[1, 4]), m.view("narrow/1", &ids, &[0, 0, 8 * i64::from(M)])],
                vec![Attr::Int(0)],
            )
        }),
        // Reductions of a gibibyte to one number.
        Box::new(|m| long("sum/1", vec![gibibyte(m)], vec![])),
        Box::new(|m| long("max/1", vec![gibibyte(m)], vec![])),
        Box::new(|m| long("min/1", vec![gibibyte(m)], vec![Attr::Ints(vec![0, 1])])),
        Box::new(|m| long("mean/1", vec![m.cast(&m.floats(&[48 * M]), DType::F16)], vec![])),
        Box::new(|m| long("sum/1", vec![m.zeros(&[32 * M], DType::I64)], vec![])),
        Box::new(|m| long("argmax/1", vec![m.floats(&[1, 64 * M])], vec![Attr::Int(1)])),
        Box::new(|m| long("argmin/1", vec![m.floats(&[64 * M, 1])], vec![Attr::Int(0)])),
        Box::new(|m| long("sample/1", vec![m.floats(&[16 * M])], vec![])),
        Box::new(|m| {
            let attrs = vec![Attr::Float(0.7), Attr::Int(1000), Attr::Float(0.9)];
            long("sample/1", vec![m.cast(&m.floats(&[8 * M]), DType::F16)], attrs)
        }),
        Box::new(|m| long("logsumexp/1", vec![m.floats(&[1, 64 * M])], vec![Attr::Int(1)])),
        Box::new(|m| long("log_softmax/1", vec![m.floats(&[1, 48 * M])], vec![])),
        Box::new(|m| long("log_softmax/1", vec![m.floats(&[24 * M, 2])], vec![Attr::Int(0)])),
        Box::new(|m| long("softmax/1", vec![m.floats(&[3, 16 * M, 1])], vec![Attr::Int(1)])),
        Box::new(|m| {
            let x = m.floats(&[32 * M]);
            long("layer_norm/1", vec![x.clone(), x.clone(), x], vec![])
        }),
        Box::new(|m| {
            let x = m.floats(&[32 * M]);
            long("rms_norm/1", vec![x.clone(), x], vec![])
        }),
        Box::new(|m| {
            long(
                "conv_transpose1d/1",
                vec![m.floats(&[1, 1, 8 * M]), m.floats(&[1, 1, 64])],
                vec![],
            )
        }),
        Box::new(|m| {
            long(
                "where/1",
                vec![
                    m.zeros(&[48 * M], DType::U8),
                    m.zeros(&[48 * M], DType::F16),
                    m.zeros(&[48 * M], DType::F16),
                ],
                vec![],
            )
        }),
    ]
}

/// A gibibyte of floats, which take no more memory than a row of them.
fn gibibyte(m: &Maker) -> Tensor {
    let attrs = [Attr::Ints(vec![4096, 65_536])];
    apply(&m.scope, "broadcast_to/1", &[&m.floats(&[1, 65_536])], &attrs)
}

#[test]
fn an_op_that_takes_long_is_left_at_the_deadline_and_when_it_is_cancelled() {
    let maker = Maker::new();
    let (mut worst, mut paid) = (Duration::ZERO, Duration::ZERO);
    for make in long_ops() {
        let Long { op, inputs, attrs } = make(&maker);
        let (list, id) = (inputs.iter().collect::<Vec<_>>(), lookup(op).unwrap());
        let held = maker.budget.used();

        let started = Instant::now();
        let until = started + SOON;
        let control = Control {
            deadline: Some(until),
            ..Control::default()
        };
        let scope = maker.under(control);
        let timed = scope.apply(id, &list, &attrs).unwrap_err();
        let after_deadline = until.elapsed();
        paid += scope.stats().compute;
        assert_eq!(timed.code, Code::Timeout, "{op}: {timed}");

        let cancelled = Arc::new(AtomicBool::new(false));
        let control = Control {
            deadline: None,
            cancelled: Arc::clone(&cancelled),
        };
        let scope = maker.under(control);
        let canceller = std::thread::spawn(move || {
            std::thread::sleep(SOON);
            cancelled.store(true, Ordering::Relaxed);
            Instant::now()
        });
        let stopped = scope.apply(id, &list, &attrs).unwrap_err();
        let after_cancel = canceller.join().unwrap().elapsed();
        assert_eq!(stopped.code, Code::Cancelled, "{op}: {stopped}");

        println!(
            "{op:>20}  left {after_deadline:>9.1?} after its deadline, {after_cancel:>9.1?} after it was cancelled"
        );
        assert!(after_deadline.max(after_cancel) < LEFT, "{op}");
        worst = worst.max(after_deadline).max(after_cancel);
        assert_eq!(
            maker.budget.used(),
            held,
            "{op} left something that nobody pays for, or nobody gave back"
        );
    }
    println!("at most {worst:.1?}");
    assert!(paid >= SOON, "what was left is paid for: {paid:?}");
    // The threads that were left are well.
    let x = maker.floats(&[300, 300]);
    assert!(
        read(&maker.scope, &apply(&maker.scope, "matmul/1", &[&x, &x], &[]))
            .data
            .iter()
            .all(|x| *x > 0.0)
    );
}

/// The parts of a tensor along a dimension.
fn halves(maker: &Maker, x: &Tensor, axis: usize, parts: u32) -> Vec<Tensor> {
    let len = x.shape()[axis] / parts;
    let part = |i: u32| maker.view("narrow/1", x, &[axis as i64, i64::from(i * len), i64::from(len)]);
    (0..parts).map(part).collect()
}

fn bytes(maker: &Maker, x: &Tensor) -> Vec<u8> {
    maker.scope.read(x).unwrap()
}

/// That an op of a large tensor gives what it gives of parts of it, put together along the first dimension.
fn same_in_parts(maker: &Maker, op: &str, inputs: &[(&Tensor, bool)], attrs: &[Attr]) {
    const PARTS: u32 = 4;
    let all: Vec<&Tensor> = inputs.iter().map(|(x, _)| *x).collect();
    let whole = apply(&maker.scope, op, &all, attrs);
    let cut: Vec<Option<Vec<Tensor>>> = inputs
        .iter()
        .map(|(x, cut)| cut.then(|| halves(maker, x, 0, PARTS)))
        .collect();
    let mut parts = Vec::new();
    for i in 0..PARTS as usize {
        let of = inputs
            .iter()
            .zip(&cut)
            .map(|((x, _), cut)| cut.as_ref().map_or(*x, |cut| &cut[i]));
        parts.extend(bytes(maker, &apply(&maker.scope, op, &of.collect::<Vec<_>>(), attrs)));
    }
    assert!(bytes(maker, &whole) == parts, "{op} of {:?}", inputs[0].0.shape());
}

#[test]
fn what_is_computed_in_pieces_is_what_it_is_as_a_whole() {
    let m = Maker::new();
    let x = m.floats(&[8, 3, 50_000]);
    let turned = m.view("transpose/1", &m.floats(&[50_000, 3, 8]), &[0, 2]);
    let (row, column) = (m.floats(&[50_000]), m.floats(&[3, 1]));
    let wide = m.view("narrow/1", &m.floats(&[8, 3, 50_100]), &[2, 50, 50_000]);
    for op in ["add/1", "maximum/1", "lt/1", "div/1"] {
        for a in [&x, &turned, &wide] {
            same_in_parts(&m, op, &[(a, true), (&turned, true)], &[]);
            same_in_parts(&m, op, &[(a, true), (&row, false)], &[]);
            same_in_parts(&m, op, &[(&column, false), (a, true)], &[]);
        }
    }
    for x in [&x, &turned, &wide] {
        for op in ["log/1", "erf/1", "sign/1", "softmax/1", "log_softmax/1", "cumsum/1"] {
            let attrs = if op == "cumsum/1" { vec![Attr::Int(2)] } else { vec![] };
            same_in_parts(&m, op, &[(x, true)], &attrs);
        }
        for dtype in [DType::F16, DType::BF16, DType::I64] {
            same_in_parts(&m, "cast/1", &[(x, true)], &[Attr::DType(dtype)]);
        }
        let half = m.cast(x, DType::F16);
        for op in ["exp/1", "gelu_erf/1", "softmax/1", "rsqrt/1"] {
            same_in_parts(&m, op, &[(&half, true)], &[]);
        }
        for keep in [false, true] {
            let over = |axes: &[i64]| [Attr::Ints(axes.to_vec()), Attr::Flag(keep)];
            same_in_parts(&m, "sum/1", &[(x, true)], &over(&[2]));
            same_in_parts(&m, "max/1", &[(x, true)], &over(&[1]));
            same_in_parts(&m, "mean/1", &[(&half, true)], &over(&[1, 2]));
            same_in_parts(&m, "argmax/1", &[(x, true)], &[Attr::Int(1), Attr::Flag(keep)]);
        }
        let condition = apply(&m.scope, "lt/1", &[x, &turned], &[]);
        same_in_parts(&m, "where/1", &[(&condition, true), (x, true), (&row, false)], &[]);
        same_in_parts(&m, "pad/1", &[(x, true)], &[Attr::Int(2), Attr::Int(3), Attr::Int(4)]);
        same_in_parts(&m, "pad/1", &[(x, true)], &[Attr::Int(1), Attr::Int(1), Attr::Int(0)]);
        same_in_parts(&m, "cat/1", &[(x, true), (&turned, true)], &[Attr::Int(1)]);
        same_in_parts(&m, "stack/1", &[(x, true), (&wide, true)], &[Attr::Int(2)]);
        let ids = m.cast(
            &apply(&m.scope, "arange/1", &[], &[Attr::Int(30_000), Attr::Float(1.0)]),
            DType::U32,
        );
        same_in_parts(&m, "index_select/1", &[(x, true), (&ids, false)], &[Attr::Int(2)]);
    }
    // Along the first dimension: its parts, one after the other, are the whole.
    let both = apply(&m.scope, "cat/1", &[&turned, &x], &[Attr::Int(0)]);
    assert!(bytes(&m, &both) == [bytes(&m, &turned), bytes(&m, &x)].concat());
    // One dimension that is long, behind others of 1.
    let line = m.view("unsqueeze/1", &m.view("unsqueeze/1", &m.floats(&[3 << 20]), &[0]), &[0]);
    let logs = bytes(&m, &apply(&m.scope, "log/1", &[&line], &[]));
    let parts = halves(&m, &line, 2, 16);
    let parts: Vec<u8> = parts
        .iter()
        .flat_map(|part| bytes(&m, &apply(&m.scope, "log/1", &[part], &[])))
        .collect();
    assert!(logs == parts);
}

#[test]
fn what_is_reduced_in_pieces_to_one_number_is_what_it_is_as_a_whole() {
    let m = Maker::new();
    let x = m.floats(&[3, 700, 500]);
    // Equal elements in many pieces, transposed, and a part of something larger.
    let equal = apply(&m.scope, "round/1", &[&x], &[]);
    let turned = m.view("transpose/1", &x, &[0, 2]);
    let wide = m.view("narrow/1", &m.floats(&[700, 1000]), &[1, 250, 600]);
    for x in [&x, &equal, &turned, &wide] {
        for dtype in [DType::F32, DType::F16, DType::BF16, DType::U8, DType::U32, DType::I64] {
            let x = match dtype {
                DType::F32 => x.clone(),
                DType::F16 | DType::BF16 => m.cast(x, dtype),
                // From 0 to 250.
                _ => m.cast(
                    &apply(&m.scope, "affine/1", &[x], &[Attr::Float(250.0), Attr::Float(0.0)]),
                    dtype,
                ),
            };
            let all = read(&m.scope, &x);
            let rank = all.shape.len();
            let over: Vec<i64> = (0..rank as i64).collect();
            for attrs in [vec![], vec![Attr::Ints(over), Attr::Flag(true)]] {
                let one = |op: &str| {
                    let found = apply(&m.scope, op, &[&x], &attrs);
                    assert_eq!(found.shape(), vec![1; if attrs.is_empty() { 0 } else { rank }], "{op}");
                    read(&m.scope, &found).data[0]
                };
                assert_eq!(
                    one("max/1"),
                    all.data.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                    "{dtype}"
                );
                assert_eq!(
                    one("min/1"),
                    all.data.iter().copied().fold(f64::INFINITY, f64::min),
                    "{dtype}"
                );
                let sum: f64 = all.data.iter().sum();
                match dtype {
                    DType::U8 => assert_eq!(one("sum/1"), sum % 256.0),
                    DType::U32 | DType::I64 => assert_eq!(one("sum/1"), sum),
                    // More than the largest half float.
                    DType::F16 => assert_eq!(one("sum/1"), f64::INFINITY),
                    _ => {
                        let step = if dtype == DType::F32 {
                            f64::from(f32::EPSILON)
                        } else {
                            1.0 / 256.0
                        };
                        assert!((one("sum/1") / sum - 1.0).abs() <= step, "{dtype}");
                    }
                }
                if !dtype.is_int() {
                    let mean = sum / all.data.len() as f64;
                    let step = if dtype == DType::F32 {
                        f64::from(f32::EPSILON)
                    } else {
                        1.0 / 256.0
                    };
                    assert!((one("mean/1") / mean - 1.0).abs() <= step, "{dtype}");
                }
            }
            // The first of equals.
            let line = apply(&m.scope, "reshape/1", &[&x], &[Attr::Ints(vec![1, -1])]);
            for op in ["argmax/1", "argmin/1"] {
                let at = read(&m.scope, &apply(&m.scope, op, &[&line], &[Attr::Int(1)])).data[0] as usize;
                let found = all.data[at];
                let better = |x: f64| if op == "argmax/1" { x > found } else { x < found };
                assert!(!all.data.iter().any(|x| better(*x)), "{op} of {dtype}");
                assert_eq!(all.data.iter().position(|x| *x == found), Some(at), "{op} of {dtype}");
            }
        }
    }
    // What is not a number is passed over, wherever a piece begins.
    let mut data = vec![1.0; 5 * maquette_tensor::ops::PIECE];
    for at in (1..data.len()).step_by(64) {
        data[at] = f64::NAN;
    }
    data.iter_mut().step_by(128 << 10).skip(1).for_each(|x| *x = f64::NAN);
    data[300_000] = 2.0;
    let x = common::upload(
        &m.scope,
        &common::Plain {
            shape: vec![data.len()],
            data,
        },
        DType::F32,
    );
    assert_eq!(read(&m.scope, &apply(&m.scope, "max/1", &[&x], &[])).data, [2.0]);
    assert_eq!(
        read(&m.scope, &apply(&m.scope, "argmax/1", &[&x], &[Attr::Int(0)])).data,
        [300_000.0]
    );
}

#[test]
fn long_rows_agree_with_float64() {
    let m = Maker::new();
    let x = m.floats(&[2, 700_001]);
    let (weight, bias) = (m.floats(&[700_001]), m.floats(&[700_001]));
    let attrs = [Attr::Float(1e-5)];
    let norm = apply(&m.scope, "layer_norm/1", &[&x, &weight, &bias], &attrs);
    let scale = apply(&m.scope, "rms_norm/1", &[&x, &weight], &attrs);
    let log = apply(&m.scope, "log_softmax/1", &[&x], &[]);
    // Along the other dimension of what is the same, turned.
    let turned = m.view("transpose/1", &x, &[0, 1]);
    let down = apply(&m.scope, "log_softmax/1", &[&turned], &[Attr::Int(0)]);
    assert_eq!(down.shape(), [700_001, 2]);
    assert!(bytes(&m, &m.view("transpose/1", &down, &[0, 1])) == bytes(&m, &log));
    let plain = |x: &Tensor| read(&m.scope, x).data;
    let (weight, bias) = (plain(&weight), plain(&bias));
    let found = [plain(&norm), plain(&scale), plain(&log)];
    for (row, x) in plain(&x).chunks(700_001).enumerate() {
        let mean_of = |f: &dyn Fn(f64) -> f64| x.iter().map(|x| f(*x)).sum::<f64>() / x.len() as f64;
        let mean = mean_of(&|x| x);
        let deviation = (mean_of(&|x| (x - mean).powi(2)) + 1e-5).sqrt();
        let root = (mean_of(&|x| x * x) + 1e-5).sqrt();
        let sum = (mean_of(&f64::exp) * x.len() as f64).ln();
        for (i, x) in x.iter().enumerate().step_by(97) {
            let expected = [
                (x - mean) / deviation * weight[i] + bias[i],
                x / root * weight[i],
                x - sum,
            ];
            for (found, expected) in found.iter().zip(expected) {
                let found = found[row * 700_001 + i];
                assert!(
                    (found - expected).abs() <= 2e-6 * expected.abs().max(1.0),
                    "{i}: {found} is not {expected}"
                );
            }
        }
    }
}

#[test]
fn large_products_agree_with_sums_of_float64() {
    let m = Maker::new();
    let shapes: [(&[u32], &[u32]); 6] = [
        (&[700, 600], &[600, 800]),
        (&[2, 3, 300, 400], &[3, 400, 500]),
        (&[5, 1, 200, 300], &[1, 4, 300, 200]),
        (&[3, 400, 500], &[500, 300]),
        (&[47, 3000], &[3000, 1501]),
        (&[33, 2, 4100], &[33, 4100, 600]),
    ];
    for (i, (a, b)) in shapes.into_iter().enumerate() {
        // Half floats where there are many rows: few of them are added up in half floats, which is off by more than this allows.
        let half = [(false, DType::F16), (true, DType::BF16)];
        let kinds = [(false, DType::F32), (true, DType::F32)]
            .into_iter()
            .chain(half.into_iter().filter(|_| i == 0));
        for (turned, dtype) in kinds {
            let (left, mut right) = (m.cast(&m.floats(a), dtype), m.cast(&m.floats(b), dtype));
            if turned {
                let mut shape = b.to_vec();
                shape.swap(b.len() - 1, b.len() - 2);
                right = m.view("transpose/1", &m.cast(&m.floats(&shape), dtype), &[-1, -2]);
            }
            let product = read(&m.scope, &apply(&m.scope, "matmul/1", &[&left, &right], &[]));
            let (left, right) = (read(&m.scope, &left), read(&m.scope, &right));
            let depth = *a.last().unwrap() as usize;
            let rank = product.shape.len();
            // Some places of the product.
            let mut random = common::Random(9);
            for _ in 0..12 {
                let place: Vec<usize> = product.shape.iter().map(|dim| random.below(*dim)).collect();
                let at = |x: &common::Plain, row: usize, column: usize| {
                    let mut place = place.clone();
                    (place[rank - 2], place[rank - 1]) = (row, column);
                    x.broadcast_at(&place)
                };
                let sum = (0..depth)
                    .map(|k| at(&left, place[rank - 2], k) * at(&right, k, place[rank - 1]))
                    .sum::<f64>();
                let found = product.at(&place);
                let tolerance = if dtype == DType::F32 { 1e-4 } else { 2e-2 };
                assert!(
                    (found - sum).abs() <= tolerance * sum.abs().max(1.0),
                    "{a:?} {b:?} {dtype}: {found} is not {sum}"
                );
            }
        }
    }
}

//! Programs: the same results as the same ops one by one, bound to weights, within their budget, and with errors that lead home.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Plain, Random, apply, encode, read, scope, upload};
use maquette_tensor::ops::program::{Constant, Description, Input, Node, WeightRef};
use maquette_tensor::ops::{Attr, Code, DType, Dim};
use maquette_tensor::{Budget, Control, Runtime, RuntimeConfig, Scope, WeightFile};
use proptest::prelude::*;

fn node(op: &str, inputs: &[u32], attrs: &[Attr]) -> Node {
    Node {
        op: op.to_owned(),
        inputs: inputs.to_vec(),
        attrs: attrs.to_vec(),
        location: "src/lib.rs:7:9".to_owned(),
    }
}

/// A program of one input `x` `[n, 4]`.
fn of_x(nodes: Vec<Node>, outputs: &[u32]) -> Description {
    Description {
        symbols: vec!["n".into()],
        inputs: vec![Input {
            name: "x".into(),
            dtype: DType::F32,
            shape: vec![Dim::symbol(0), Dim::from(4_u32)],
        }],
        nodes,
        outputs: outputs.to_vec(),
        ..Description::default()
    }
}

fn none() -> BTreeMap<String, Arc<WeightFile>> {
    BTreeMap::new()
}

fn x(scope: &Scope, n: usize) -> maquette_tensor::Tensor {
    let data = (0..n * 4).map(|i| i as f64 / 8.0 - 1.0).collect();
    upload(
        scope,
        &Plain {
            shape: vec![n, 4],
            data,
        },
        DType::F32,
    )
}

#[test]
fn symbols_take_their_values_from_the_inputs() {
    let (scope, _) = scope(1 << 20);
    let rows = Attr::Dims(vec![Dim::symbol(0) * 2, Dim::from(2_u32)]);
    let program = of_x(
        vec![
            node("reshape/1", &[0], &[rows]),
            node("sum/1", &[1], &[Attr::Ints(vec![0])]),
        ],
        &[1, 2],
    );
    let program = scope.runtime().programs().compile(&program, &none()).unwrap();
    for n in [1, 3, 5] {
        let outputs = program.run(&scope, &[&x(&scope, n)]).unwrap();
        assert_eq!(outputs[0].shape(), [n as u32 * 2, 2]);
        let expected = apply(&scope, "reshape/1", &[&x(&scope, n)], &[Attr::Ints(vec![-1, 2])]);
        let expected = apply(&scope, "sum/1", &[&expected], &[Attr::Ints(vec![0])]);
        assert_eq!(read(&scope, &outputs[1]), read(&scope, &expected));
    }
}

#[test]
fn what_does_not_fit_is_refused_when_the_program_is_compiled() {
    let (scope, _) = scope(1 << 20);
    let refused = |description: &Description| scope.runtime().programs().compile(description, &none()).unwrap_err();
    let error = refused(&of_x(vec![node("matmul/1", &[0, 0], &[])], &[1]));
    assert_eq!(error.code, Code::Shape);
    assert_eq!(
        error.message,
        "node 0 at src/lib.rs:7:9: matmul/1 of f32[s0, 4] and f32[s0, 4]: 4 columns of a do not meet s0 rows of b"
    );
    assert_eq!(
        refused(&of_x(vec![node("nope/1", &[0], &[])], &[1])).code,
        Code::Unsupported
    );
    assert_eq!(
        refused(&of_x(vec![node("exp/1", &[1], &[])], &[1])).message,
        "node 0 at src/lib.rs:7:9: input 1 is not a value before this node"
    );
    assert_eq!(refused(&of_x(vec![], &[])).message, "a program must have an output");
    assert_eq!(
        refused(&of_x(vec![], &[9])).message,
        "output 9 is no value of the program"
    );
    let mut free = of_x(vec![], &[0]);
    free.symbols.push("m".into());
    assert!(
        refused(&free)
            .message
            .starts_with("symbol `m` is no dimension of any input")
    );
    let mut long = of_x(vec![], &[0]);
    long.constants.push(Constant {
        dtype: DType::F32,
        shape: vec![2],
        data: vec![0; 9],
    });
    assert_eq!(refused(&long).message, "constant 0 has 9 bytes; its shape takes 8");
}

#[test]
fn inputs_that_do_not_fit_name_the_input_and_what_was_expected() {
    let (scope, _) = scope(1 << 20);
    let program = scope
        .runtime()
        .programs()
        .compile(&of_x(vec![node("exp/1", &[0], &[])], &[1]), &none())
        .unwrap();
    let wrong = upload(
        &scope,
        &Plain {
            shape: vec![2, 3],
            data: vec![0.0; 6],
        },
        DType::F32,
    );
    let error = program.run(&scope, &[&wrong]).unwrap_err();
    assert_eq!(
        error.message,
        "input `x` is [2, 3]; the program expects [n, 4], which is [2, 4] here"
    );
    let ids = upload(
        &scope,
        &Plain {
            shape: vec![2, 4],
            data: vec![0.0; 8],
        },
        DType::U32,
    );
    assert_eq!(program.run(&scope, &[&ids]).unwrap_err().code, Code::DType);
    assert_eq!(
        program.run(&scope, &[]).unwrap_err().message,
        "0 inputs were given; the program takes 1"
    );
}

#[test]
fn a_run_is_paid_for_before_it_starts_and_its_cost_is_known() {
    let steps: Vec<Node> = (0..10).map(|i| node("exp/1", &[i], &[])).collect();
    let (scope, budget) = scope(10_000);
    let program = scope
        .runtime()
        .programs()
        .compile(&of_x(steps, &[10]), &none())
        .unwrap();
    let cost = program.cost(&[&[100, 4]]).unwrap();
    // Two values of 1,600 bytes are alive at once, however long the chain is; the result may be copied out.
    assert_eq!((cost.flops, cost.peak_bytes), (40_000, 3200));
    let input = x(&scope, 100);
    let outputs = program.run(&scope, &[&input]).unwrap();
    assert_eq!((budget.used(), budget.peak()), (3200, 1600 + 3200));
    drop(outputs);
    let large = x(&scope, 400);
    assert_eq!(program.run(&scope, &[&large]).unwrap_err().code, Code::Quota);
    drop((input, large));
    assert_eq!(budget.used(), 0);
}

fn weights(scope: &Scope, folder: &std::path::Path) -> BTreeMap<String, Arc<WeightFile>> {
    use safetensors::tensor::{Dtype, TensorView};
    let table: Vec<u8> = encode(&(0..12).map(f64::from).collect::<Vec<_>>(), DType::F32);
    let dense: Vec<u8> = encode(&(0..8).map(|i| f64::from(i) / 4.0).collect::<Vec<_>>(), DType::BF16);
    let views = [
        ("table", TensorView::new(Dtype::F32, vec![3, 4], &table).unwrap()),
        ("dense", TensorView::new(Dtype::BF16, vec![2, 4], &dense).unwrap()),
    ];
    let path = folder.join("w.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    BTreeMap::from([(
        "model".to_owned(),
        scope.runtime().weights().open("digest", &path).unwrap(),
    )])
}

fn lookup_and_project() -> Description {
    Description {
        symbols: vec!["n".into()],
        inputs: vec![Input {
            name: "ids".into(),
            dtype: DType::U32,
            shape: vec![Dim::symbol(0)],
        }],
        weights: vec![
            WeightRef {
                file: "model".into(),
                name: "table".into(),
                dtype: DType::F32,
                shape: vec![3, 4],
            },
            WeightRef {
                file: "model".into(),
                name: "dense".into(),
                dtype: DType::F32,
                shape: vec![2, 4],
            },
        ],
        nodes: vec![node("embedding/1", &[1, 0], &[]), node("linear/1", &[3, 2], &[])],
        outputs: vec![4],
        ..Description::default()
    }
}

#[test]
fn weights_are_bound_by_name_and_a_table_stays_in_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let (scope, _) = scope(1 << 20);
    let files = weights(&scope, folder.path());
    let program = scope
        .runtime()
        .programs()
        .compile(&lookup_and_project(), &files)
        .unwrap();
    let panel = 4 * 32 * 4;
    assert_eq!(
        scope.runtime().weights().resident_bytes(),
        panel,
        "dense alone, packed for its product"
    );
    let ids = upload(
        &scope,
        &Plain {
            shape: vec![2],
            data: vec![2.0, 0.0],
        },
        DType::U32,
    );
    let output = program.run(&scope, &[&ids]).unwrap().remove(0);
    // Rows 8..12 and 0..4 times [0, .25, .5, .75] and [1, 1.25, 1.5, 1.75].
    assert_eq!(read(&scope, &output).data, [15.5, 53.5, 3.5, 9.5]);
    let ids = upload(
        &scope,
        &Plain {
            shape: vec![1],
            data: vec![3.0],
        },
        DType::U32,
    );
    let error = program.run(&scope, &[&ids]).unwrap_err();
    assert_eq!(
        error.message,
        "node 0 at src/lib.rs:7:9: embedding/1: id 3 at place 0 is not below 3"
    );
    assert_eq!(error.code, Code::InvalidInput);
}

#[test]
fn a_program_is_compiled_once_and_found_by_its_digest() {
    let folder = tempfile::tempdir().unwrap();
    let (scope, _) = scope(1 << 20);
    let files = weights(&scope, folder.path());
    let programs = scope.runtime().programs();
    let description = lookup_and_project();
    assert!(scope.find(&description.digest(), &files).is_none());
    let first = programs.compile(&description, &files).unwrap();
    let mut renamed = description.clone();
    renamed.nodes[0].location.clear();
    renamed.inputs[0].name.clear();
    assert!(
        Arc::ptr_eq(&first, &programs.compile(&renamed, &files).unwrap()),
        "names and lines do not count"
    );
    assert!(
        scope.find(&description.digest(), &none()).is_none(),
        "other weights are another program"
    );
}

#[test]
fn who_compiles_many_programs_pushes_out_their_own() {
    let config = RuntimeConfig {
        program_capacity: 8,
        ..RuntimeConfig::default()
    };
    let runtime = Runtime::cpu(config).unwrap();
    let owned = |owner: &str| {
        let scope = Scope::new(Arc::clone(&runtime), Budget::new(1 << 20), Control::default());
        scope.owned_by(owner.into())
    };
    let (quiet, flooding) = (owned("quiet"), owned("flooding"));
    // Distinct by their one constant.
    let numbered = |number: u8| Description {
        constants: vec![Constant {
            dtype: DType::U8,
            shape: vec![1],
            data: vec![number],
        }],
        outputs: vec![0],
        ..Description::default()
    };
    let own = [numbered(0), numbered(1), numbered(2)];
    own.iter()
        .for_each(|description| drop(quiet.compile(description, &none()).unwrap()));
    for number in 0..200 {
        flooding.compile(&numbered(number), &none()).unwrap();
    }
    for description in &own {
        assert!(
            quiet.find(&description.digest(), &none()).is_some(),
            "it was pushed out"
        );
        assert!(
            flooding.find(&description.digest(), &none()).is_none(),
            "it is another's"
        );
    }
    let kept = (0..200).filter(|number| flooding.find(&numbered(*number).digest(), &none()).is_some());
    assert_eq!(kept.count(), 5, "the rest of eight");
}

#[test]
fn a_weight_that_differs_from_what_the_program_expects_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (scope, _) = scope(1 << 20);
    let files = weights(&scope, folder.path());
    let refused = |change: &dyn Fn(&mut WeightRef)| {
        let mut description = lookup_and_project();
        change(&mut description.weights[1]);
        scope
            .runtime()
            .programs()
            .compile(&description, &files)
            .unwrap_err()
            .message
    };
    assert!(refused(&|w| w.name = "dens".into()).contains("the nearest are `dense`"));
    assert!(refused(&|w| w.file = "mode".into()).contains("no weight file `mode`; it has: model"));
    assert_eq!(
        refused(&|w| w.shape = vec![3, 4]),
        "weight `dense` is [2, 4] in the file; the program expects [3, 4]"
    );
}

#[test]
fn idle_weights_leave_when_others_need_their_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = RuntimeConfig {
        weight_budget: 48,
        ..RuntimeConfig::default()
    };
    let runtime = Runtime::cpu(config).unwrap();
    let scope = Scope::new(runtime, Budget::new(1 << 20), Control::default());
    let files = weights(&scope, folder.path());
    let store = scope.runtime().weights();
    let dense = store.get(&files["model"], "dense", None).unwrap();
    assert_eq!((dense.dtype(), store.resident_bytes()), (DType::BF16, 16));
    let error = store.get(&files["model"], "table", None).unwrap_err();
    assert_eq!(error.code, Code::Quota, "the other is in use");
    drop(dense);
    let table = store.get(&files["model"], "table", None).unwrap();
    assert_eq!(store.resident_bytes(), 48);
    assert_eq!(read(&scope, &table).data[11], 11.0);
}

#[test]
fn weights_of_programs_that_nobody_runs_leave_when_others_need_their_room() {
    let folder = tempfile::tempdir().unwrap();
    let config = RuntimeConfig {
        weight_budget: 60,
        ..RuntimeConfig::default()
    };
    let runtime = Runtime::cpu(config).unwrap();
    let scope = Scope::new(runtime, Budget::new(1 << 20), Control::default());
    let files = weights(&scope, folder.path());
    let (programs, store) = (scope.runtime().programs(), scope.runtime().weights());
    // Each adds one weight to its input: 48 bytes of f32, and 32.
    let adds = |name: &str, rows: u32| Description {
        weights: vec![WeightRef {
            file: "model".into(),
            name: name.into(),
            dtype: DType::F32,
            shape: vec![rows, 4],
        }],
        inputs: vec![Input {
            name: "x".into(),
            dtype: DType::F32,
            shape: vec![Dim::from(rows), Dim::from(4_u32)],
        }],
        symbols: vec![],
        ..of_x(vec![node("add/1", &[0, 1], &[])], &[2])
    };
    let (table, dense) = (adds("table", 3), adds("dense", 2));
    let running = programs.compile(&table, &files).unwrap();
    assert_eq!(store.resident_bytes(), 48);
    let error = programs.compile(&dense, &files).unwrap_err();
    assert_eq!(error.code, Code::Quota, "the other is in use");
    assert!(scope.find(&table.digest(), &files).is_some());
    drop(running);
    programs.compile(&dense, &files).unwrap();
    assert_eq!(store.resident_bytes(), 32);
    assert!(scope.find(&table.digest(), &files).is_none());
    // What could never fit pushes nobody out.
    let large = Description {
        weights: vec![table.weights[0].clone(), dense.weights[0].clone()],
        ..of_x(
            vec![
                node("sum/1", &[1], &[Attr::Ints(vec![0])]),
                node("sum/1", &[2], &[Attr::Ints(vec![0])]),
            ],
            &[3, 4],
        )
    };
    let small = RuntimeConfig {
        weight_budget: 40,
        ..RuntimeConfig::default()
    };
    let scope = Scope::new(Runtime::cpu(small).unwrap(), Budget::new(1 << 20), Control::default());
    let files = weights(&scope, folder.path());
    let programs = scope.runtime().programs();
    drop(programs.compile(&dense, &files).unwrap());
    assert_eq!(programs.compile(&large, &files).unwrap_err().code, Code::Quota);
    assert!(scope.find(&dense.digest(), &files).is_some());
    drop(programs.compile(&dense, &files).unwrap());
}

#[test]
fn a_weight_file_that_lies_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let file = |header: &str, data: usize| {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let hostile = [
        vec![],
        vec![0; 7],
        u64::MAX.to_le_bytes().to_vec(),
        (1_u64 << 40).to_le_bytes().to_vec(),
        file("not json", 0),
        file(&tensor("F32", "[2]", "[0,8]"), 7),
        file(&tensor("F32", "[2]", "[0,8]"), 9),
        file(&tensor("F32", "[3]", "[0,8]"), 8),
        file(&tensor("F32", "[2]", "[4,12]"), 12),
        file(&tensor("F32", "[2]", "[8,0]"), 8),
        file(&tensor("F32", "[4294967296,4294967296]", "[0,0]"), 0),
        file(&tensor("F32", "[4294967296,0]", "[0,0]"), 0),
        file(&tensor("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4),
        file(&tensor("F33", "[1]", "[0,4]"), 4),
    ];
    for (i, bytes) in hostile.iter().enumerate() {
        let path = folder.path().join(i.to_string());
        std::fs::write(&path, bytes).unwrap();
        let error = runtime.weights().open(&i.to_string(), &path).unwrap_err();
        assert_eq!(error.code, Code::InvalidInput, "{i}: {error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_program_gives_what_its_ops_give_one_by_one(seed in 1_u64..) {
        let random = &mut Random(seed);
        let (scope, budget) = scope(1 << 24);
        let n = 1 + random.below(4);
        let input = x(&scope, n);
        let mut nodes: Vec<Node> = Vec::new();
        let mut values = vec![input.clone()];
        for _ in 0..1 + random.below(12) {
            let a = random.below(values.len());
            let b = random.below(values.len());
            let rank = values[a].shape().len();
            let (op, inputs, attrs) = match random.below(8) {
                0 => ("tanh/1", vec![a], vec![]),
                1 if rank >= 2 => ("transpose/1", vec![a], vec![Attr::Int(-1), Attr::Int(-2)]),
                2 if rank >= 1 => ("softmax/1", vec![a], vec![Attr::Int(random.below(rank) as i64)]),
                3 if rank >= 1 => ("sum/1", vec![a], vec![Attr::Ints(vec![random.below(rank) as i64]), Attr::Flag(true)]),
                4 if rank >= 1 => ("narrow/1", vec![a], vec![Attr::Int(0), Attr::Int(0), Attr::Int(1)]),
                5 if rank < 4 => ("unsqueeze/1", vec![a], vec![Attr::Int(random.below(rank + 1) as i64)]),
                6 => ("add/1", vec![a, b], vec![]),
                _ => ("affine/1", vec![a], vec![Attr::Float(0.5), Attr::Float(0.125)]),
            };
            let tensors: Vec<_> = inputs.iter().map(|i| &values[*i]).collect();
            let Ok(value) = scope.apply(maquette_tensor::ops::lookup(op).unwrap(), &tensors, &attrs) else { continue };
            nodes.push(node(op, &inputs.iter().map(|i| *i as u32).collect::<Vec<_>>(), &attrs));
            values.push(value);
        }
        let outputs: Vec<u32> = (0..values.len() as u32).filter(|_| random.below(3) == 0).chain([values.len() as u32 - 1]).collect();
        let description = of_x(nodes, &outputs);
        // With a symbol in place of n, two dimensions that are equal by chance may not be known to be: then it is refused.
        let Ok(program) = scope.runtime().programs().compile(&description, &none()) else { return Ok(()) };
        for _ in 0..2 {
            let found = program.run(&scope, &[&input]).unwrap();
            for (value, found) in outputs.iter().zip(&found) {
                prop_assert_eq!(read(&scope, found), read(&scope, &values[*value as usize]));
            }
        }
        drop((values, input));
        prop_assert_eq!(budget.used(), 0);
    }
}

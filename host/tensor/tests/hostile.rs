//! What candle would abort, panic or misread on is an error here, and nothing is allocated for it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use common::{Plain, apply, scope, upload};
use maquette_tensor::ops::{Attr, Code, DType, OpId, lookup, table};
use maquette_tensor::{Budget, Control, Runtime, RuntimeConfig, Scope, Tensor};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn refused(scope: &Scope, op: &str, inputs: &[&Tensor], attrs: &[Attr]) -> (Code, String) {
    let error = scope.apply(lookup(op).unwrap(), inputs, attrs).unwrap_err();
    (error.code, error.message)
}

/// The refusal of bytes beyond a budget of a mebibyte, `used` of which are in use.
fn beyond(place: &str, needed: u64, used: u64) -> (Code, String) {
    let message = format!(
        "{place}: {needed} bytes of tensors are needed; {used} of 1048576 are in use: drop tensors, use smaller batches, or ask for more \
         in [limits]"
    );
    (Code::Quota, message)
}

fn told(error: maquette_tensor::ops::Error) -> (Code, String) {
    (error.code, error.message)
}

fn scalar(scope: &Scope) -> Tensor {
    upload(
        scope,
        &Plain {
            shape: vec![],
            data: vec![1.0],
        },
        DType::F32,
    )
}

#[test]
fn a_huge_shape_is_refused_before_it_is_allocated() {
    let (scope, budget) = scope(1 << 20);
    let x = scalar(&scope);
    let huge = Attr::Ints(vec![1 << 22, 1 << 20]);
    let many = "[4194304, 1048576] has more than the 2147483647 elements that are allowed";
    assert_eq!(
        refused(&scope, "broadcast_to/1", &[&x], std::slice::from_ref(&huge)),
        (Code::Shape, format!("broadcast_to/1 of f32[]: {many}"))
    );
    assert_eq!(
        refused(&scope, "full/1", &[], &[huge, Attr::Float(0.0)]),
        (Code::Shape, format!("full/1 of nothing: {many}"))
    );
    // A broadcast is free; what would make it real is not.
    let wide = apply(&scope, "broadcast_to/1", &[&x], &[Attr::Ints(vec![1 << 15, 1 << 15])]);
    assert!(budget.used() < 64);
    for (op, attrs, needed) in [
        ("exp/1", vec![], 4_299_161_600),
        ("reshape/1", vec![Attr::Ints(vec![-1])], 4_299_161_600),
        ("sum/1", vec![], 4_299_161_608),
    ] {
        let told = refused(&scope, op, &[&wide], &attrs);
        assert_eq!(told, beyond(&format!("{op} of f32[32768, 32768]"), needed, 4));
    }
    assert_eq!(
        refused(&scope, "add/1", &[&wide, &wide], &[]),
        beyond("add/1 of f32[32768, 32768] and f32[32768, 32768]", 4_299_161_600, 4)
    );
    assert_eq!(
        told(scope.read(&wide).unwrap_err()),
        beyond("reading f32[32768, 32768]", 4_294_967_296, 4)
    );
}

#[test]
fn shapes_whose_product_wraps_around_are_refused() {
    let (scope, _) = scope(1 << 20);
    for shape in [
        &[u32::MAX, u32::MAX][..],
        &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
        // No elements, but strides that would wrap around.
        &[0, u32::MAX, u32::MAX],
        &[u32::MAX, u32::MAX, u32::MAX, 0],
    ] {
        assert_eq!(
            told(scope.from_bytes(DType::F32, shape, &[]).unwrap_err()),
            (
                Code::Shape,
                format!("{shape:?} has more than the 2147483647 elements that are allowed")
            )
        );
    }
    for shape in [[1; 9], [0, 1, 1, 1, 1, 1, 1, 1, 1]] {
        assert_eq!(
            told(scope.from_bytes(DType::F32, &shape, &[]).unwrap_err()),
            (
                Code::Shape,
                "a shape has 9 dimensions; at most 8 are allowed".to_owned()
            )
        );
    }
    let empty = scope.from_bytes(DType::F32, &[0, 1, 1, 1, 1, 1, 1, 1], &[]).unwrap();
    assert_eq!(
        refused(&scope, "unsqueeze/1", &[&empty], &[Attr::Int(8)]),
        (
            Code::Shape,
            "unsqueeze/1 of f32[0, 1, 1, 1, 1, 1, 1, 1]: the output would have more than 8 dimensions".to_owned()
        )
    );
}

#[test]
fn data_of_the_wrong_length_is_refused() {
    let (scope, _) = scope(1 << 20);
    for bytes in [0, 7, 9, 16] {
        assert_eq!(
            told(scope.from_bytes(DType::F32, &[2], &vec![0; bytes]).unwrap_err()),
            (
                Code::Shape,
                format!("{bytes} bytes were given for f32[2], which takes 8")
            )
        );
    }
}

#[test]
fn a_few_bytes_cannot_be_amplified_past_the_budget() {
    let (scope, budget) = scope(1 << 20);
    let column = upload(
        &scope,
        &Plain {
            shape: vec![10_000, 1],
            data: vec![1.0; 10_000],
        },
        DType::F32,
    );
    let row = apply(&scope, "transpose/1", &[&column], &[Attr::Int(0), Attr::Int(1)]);
    for op in ["matmul/1", "add/1"] {
        assert_eq!(
            refused(&scope, op, &[&column, &row], &[]),
            beyond(&format!("{op} of f32[10000, 1] and f32[1, 10000]"), 404_194_304, 40_000)
        );
    }
    let pad = [Attr::Int(0), Attr::Int(1 << 30), Attr::Int(0)];
    assert_eq!(
        refused(&scope, "pad/1", &[&column], &pad),
        beyond("pad/1 of f32[10000, 1]", 8_594_208_896, 40_000)
    );
    let pad = [Attr::Int(0), Attr::Int(i64::MAX), Attr::Int(0)];
    assert_eq!(
        refused(&scope, "pad/1", &[&column], &pad),
        (
            Code::Shape,
            "pad/1 of f32[10000, 1]: 9223372036854775807 is no dimension: it must be from 0 to 4294967295".to_owned()
        )
    );
    let many = vec![&column; 100];
    let four = ["f32[10000, 1]"; 4].join(" and ");
    assert_eq!(
        refused(&scope, "cat/1", &many, &[Attr::Int(0)]),
        beyond(&format!("cat/1 of {four} and 96 more"), 8_194_304, 40_000)
    );
    assert_eq!(budget.used(), 40_000);
}

#[test]
fn ids_past_the_rows_are_the_callers_fault() {
    let (scope, _) = scope(1 << 20);
    let table = upload(
        &scope,
        &Plain {
            shape: vec![3, 2],
            data: vec![0.0; 6],
        },
        DType::F32,
    );
    for id in [3.0, -1.0, 1e15] {
        let ids = upload(
            &scope,
            &Plain {
                shape: vec![1],
                data: vec![id],
            },
            DType::I64,
        );
        for (op, attrs) in [("embedding/1", vec![]), ("index_select/1", vec![Attr::Int(0)])] {
            assert_eq!(
                refused(&scope, op, &[&table, &ids], &attrs),
                (Code::InvalidInput, format!("{op}: id {id} at place 0 is not below 3"))
            );
        }
    }
}

#[test]
fn division_by_zero_and_not_a_number_never_crash() {
    let (scope, _) = scope(1 << 20);
    let zero = |dtype| {
        upload(
            &scope,
            &Plain {
                shape: vec![3],
                data: vec![0.0; 3],
            },
            dtype,
        )
    };
    for dtype in DType::ALL {
        let zero = zero(dtype);
        if dtype.is_int() {
            assert_eq!(
                refused(&scope, "div/1", &[&zero, &zero], &[]),
                (
                    Code::DType,
                    format!(
                        "div/1 of {dtype}[3] and {dtype}[3]: a is {dtype}; it must be f32, f16 or bf16: use cast/1"
                    )
                )
            );
            assert_eq!(
                refused(&scope, "rem/1", &[&zero, &zero], &[]),
                (Code::InvalidInput, "rem/1: a divisor is 0".to_owned())
            );
        } else {
            for op in ["div/1", "rem/1"] {
                let quotient = common::read(&scope, &apply(&scope, op, &[&zero, &zero], &[]));
                assert!(quotient.data.iter().all(|x| x.is_nan()), "{op} of {dtype}");
            }
        }
    }
    let nan = apply(&scope, "div/1", &[&zero(DType::F32), &zero(DType::F32)], &[]);
    for (op, attrs) in [
        ("exp/1", vec![]),
        ("softmax/1", vec![]),
        ("sum/1", vec![]),
        ("argsort/1", vec![]),
        ("argmax/1", vec![Attr::Int(0)]),
    ] {
        scope.read(&apply(&scope, op, &[&nan], &attrs)).unwrap();
    }
    for dtype in [DType::U8, DType::U32, DType::I64] {
        let cast = apply(&scope, "cast/1", &[&nan], &[Attr::DType(dtype)]);
        assert_eq!(scope.read(&cast).unwrap(), vec![0; 3 * dtype.size()], "{dtype}");
    }
}

#[test]
fn empty_dimensions_are_computed_or_refused_but_never_crash() {
    let (scope, _) = scope(1 << 20);
    let empty = scope.from_bytes(DType::F32, &[2, 0], &[]).unwrap();
    for op in ["softmax/1", "log_softmax/1"] {
        assert_eq!(apply(&scope, op, &[&empty], &[]).shape(), [2, 0]);
    }
    for op in ["max/1", "argmax/1"] {
        let axis = if op == "max/1" {
            Attr::Ints(vec![1])
        } else {
            Attr::Int(1)
        };
        assert_eq!(
            refused(&scope, op, &[&empty], &[axis]),
            (Code::Shape, format!("{op} of f32[2, 0]: dimension 1 is empty"))
        );
    }
    let sum = apply(&scope, "sum/1", &[&empty], &[Attr::Ints(vec![1])]);
    assert_eq!(common::read(&scope, &sum).data, [0.0, 0.0]);
}

#[test]
fn a_message_names_the_op_both_shapes_and_the_fix() {
    let (scope, _) = scope(1 << 20);
    let a = upload(
        &scope,
        &Plain {
            shape: vec![2, 3],
            data: vec![0.0; 6],
        },
        DType::F32,
    );
    assert_eq!(
        refused(&scope, "matmul/1", &[&a, &a], &[]),
        (
            Code::Shape,
            "matmul/1 of f32[2, 3] and f32[2, 3]: 3 columns of a do not meet 2 rows of b".to_owned()
        )
    );
    let ids = upload(
        &scope,
        &Plain {
            shape: vec![2],
            data: vec![0.0; 2],
        },
        DType::U32,
    );
    assert_eq!(
        refused(&scope, "exp/1", &[&ids], &[]),
        (
            Code::DType,
            "exp/1 of u32[2]: x is u32; it must be f32, f16 or bf16: use cast/1".to_owned()
        )
    );
    assert_eq!(
        refused(&scope, "add/1", &[&a, &ids], &[]),
        (
            Code::DType,
            "add/1 of f32[2, 3] and u32[2]: f32 and u32 do not mix: use cast/1 on one of them".to_owned()
        )
    );
}

#[test]
fn integers_wrap_around_in_every_build() {
    let (scope, _) = scope(1 << 20);
    let of = |data: Vec<f64>, dtype| {
        let shape = vec![data.len()];
        upload(&scope, &Plain { shape, data }, dtype)
    };
    let byte = of(vec![255.0, 3.0], DType::U8);
    let two = of(vec![2.0], DType::U8);
    for (op, expected) in [("add/1", [1.0, 5.0]), ("sub/1", [253.0, 1.0]), ("mul/1", [254.0, 6.0])] {
        assert_eq!(
            common::read(&scope, &apply(&scope, op, &[&byte, &two], &[])).data,
            expected,
            "{op}"
        );
    }
    let backwards = apply(&scope, "sub/1", &[&two, &byte], &[]);
    assert_eq!(common::read(&scope, &backwards).data, [3.0, 255.0]);
    let many = of(vec![1.0; 300], DType::U8);
    assert_eq!(
        common::read(&scope, &apply(&scope, "sum/1", &[&many], &[])).data,
        [44.0]
    );
    // Enough elements for candle's thread pool, which a panic would have made unusable.
    let large = apply(
        &scope,
        "full/1",
        &[],
        &[Attr::Ints(vec![100_000]), Attr::Int(255), Attr::DType(DType::U8)],
    );
    let sum = apply(&scope, "add/1", &[&large, &large], &[]);
    assert!(scope.read(&sum).unwrap().iter().all(|b| *b == 254));
}

#[test]
fn nothing_starts_after_the_deadline_or_a_cancel() {
    let runtime = Runtime::cpu(RuntimeConfig::default()).unwrap();
    let cancelled = Arc::new(AtomicBool::new(false));
    let make = |deadline| {
        let control = Control {
            deadline,
            cancelled: Arc::clone(&cancelled),
        };
        Scope::new(Arc::clone(&runtime), Budget::new(1 << 20), control)
    };
    let late = make(Some(Instant::now()));
    assert_eq!(
        refused(&late, "full/1", &[], &[Attr::Ints(vec![1]), Attr::Float(0.0)]),
        (Code::Timeout, "the deadline of the call has passed".to_owned())
    );
    let early = make(Some(Instant::now() + Duration::from_secs(60)));
    cancelled.store(true, Ordering::Relaxed);
    assert_eq!(
        refused(&early, "full/1", &[], &[Attr::Ints(vec![1]), Attr::Float(0.0)]),
        (Code::Cancelled, "the call was cancelled".to_owned())
    );
}

fn any_attr() -> impl Strategy<Value = Attr> {
    let int = prop_oneof![-9_i64..9, any::<i64>()];
    prop_oneof![
        Just(Attr::Unset),
        any::<bool>().prop_map(Attr::Flag),
        int.clone().prop_map(Attr::Int),
        any::<f64>().prop_map(Attr::Float),
        prop::collection::vec(int, 0..10).prop_map(Attr::Ints),
        prop::sample::select(DType::ALL.to_vec()).prop_map(Attr::DType),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_op_crashes_on_any_shapes_dtypes_or_attributes(
        op in 0..table().len(),
        shapes in prop::collection::vec((prop::collection::vec(0_u32..5, 0..5), prop::sample::select(DType::ALL.to_vec())), 0..4),
        attrs in prop::collection::vec(any_attr(), 0..5),
    ) {
        let (scope, budget) = scope(1 << 20);
        let inputs: Vec<Tensor> = shapes
            .iter()
            .map(|(shape, dtype)| {
                let n = shape.iter().product::<u32>() as usize * dtype.size();
                scope.from_bytes(*dtype, shape, &vec![1; n]).unwrap()
            })
            .collect();
        let before = budget.used();
        match scope.apply(OpId(op as u32), &inputs.iter().collect::<Vec<_>>(), &attrs) {
            Ok(output) => {
                let read = scope.read(&output);
                prop_assert!(read.is_ok_and(|bytes| bytes.len() as u64 == output.bytes()) || output.bytes() > 1 << 19);
            }
            Err(error) => prop_assert_ne!(error.code, Code::Internal, "{}", error),
        }
        prop_assert_eq!(budget.used(), before);
        drop(inputs);
        prop_assert_eq!(budget.used(), 0);
    }

    #[test]
    fn no_op_of_images_crashes_on_any_sizes(
        op in 0..IMAGES,
        image in prop_oneof![
            4 => prop::collection::vec(1_u32..7, 4),
            1 => prop::collection::vec(0_u32..7, 2..5),
        ],
        weight in prop_oneof![
            4 => prop::collection::vec(1_u32..4, 4),
            1 => prop::collection::vec(0_u32..4, 1..5),
        ],
        matched in 0_usize..4,
        dtype in prop_oneof![4 => Just(DType::F32), 1 => prop::sample::select(DType::ALL.to_vec())],
        attrs in prop::collection::vec(prop_oneof![
            5 => (0_i64..4).prop_map(Attr::Int),
            4 => prop::collection::vec(1_i64..4, 2).prop_map(Attr::Ints),
            2 => prop::collection::vec(0_i64..4, 1..5).prop_map(Attr::Ints),
            4 => Just(Attr::Unset),
            1 => any_attr(),
        ], 0..7),
    ) {
        let first = lookup("conv2d/1").unwrap().0;
        let id = OpId(first + op);
        let (scope, budget) = scope(1 << 20);
        let channels = image[1];
        // Weights of as many channels as x has, where they stand first or second; parameters of one a channel; anything.
        let weight = match matched {
            0 => [&weight[..1], &[channels], weight.get(2..).unwrap_or(&[])].concat(),
            1 => [&[channels], &weight[1..]].concat(),
            2 => vec![channels],
            _ => weight,
        };
        let last = if matched == 0 { weight[0] } else { channels };
        let mut attrs = attrs;
        attrs.truncate(table()[id.0 as usize].attrs.len());
        let shapes = [image, weight, vec![last], vec![channels], vec![channels]];
        let inputs: Vec<Tensor> = shapes
            .iter()
            .map(|shape| {
                let n = shape.iter().product::<u32>() as usize * dtype.size();
                scope.from_bytes(dtype, shape, &vec![1; n]).unwrap()
            })
            .collect();
        let refs: Vec<&Tensor> = inputs.iter().collect();
        let before = budget.used();
        for count in 0..=refs.len() {
            match scope.apply(id, &refs[..count], &attrs) {
                Ok(output) => {
                    RUN[op as usize].store(true, Ordering::Relaxed);
                    let read = scope.read(&output);
                    prop_assert!(read.is_ok_and(|bytes| bytes.len() as u64 == output.bytes()) || output.bytes() > 1 << 19);
                }
                Err(error) => prop_assert_ne!(error.code, Code::Internal, "{}", error),
            }
        }
        prop_assert_eq!(budget.used(), before);
    }
}

/// How many ops of images there are, and which of them have run.
const IMAGES: u32 = 20;
static RUN: [AtomicBool; IMAGES as usize] = [const { AtomicBool::new(false) }; IMAGES as usize];

#[test]
fn what_is_tried_on_images_is_not_all_refused() {
    no_op_of_images_crashes_on_any_sizes();
    let first = lookup("conv2d/1").unwrap().0 as usize;
    let refused: Vec<&str> = table()[first..]
        .iter()
        .zip(&RUN)
        .filter(|(_, run)| !run.load(Ordering::Relaxed))
        .map(|(spec, _)| spec.name)
        .collect();
    assert!(refused.is_empty(), "{refused:?} never ran");
}

#[test]
fn a_product_has_as_many_dimensions_as_a_tensor_may() {
    let (scope, _) = scope(1 << 20);
    let filled = |shape: &[usize]| {
        let mut next = 0.0;
        let plain = Plain::from_fn(shape, |_| {
            next += 1.0;
            next
        });
        upload(&scope, &plain, DType::F32)
    };
    let read = |tensor: &Tensor| scope.read(tensor).unwrap();
    let swap = [Attr::Int(-1), Attr::Int(-2)];
    let (a, b) = (filled(&[2, 1, 3, 1, 2, 2, 3]), filled(&[2, 1, 3, 1, 2, 3, 2]));
    let (a3, b3) = (filled(&[12, 2, 3]), filled(&[12, 3, 2]));
    let expected = apply(&scope, "matmul/1", &[&a3, &b3], &[]);
    let product = apply(&scope, "matmul/1", &[&a, &b], &[]);
    assert_eq!(product.shape(), [2, 1, 3, 1, 2, 2, 2]);
    assert_eq!(read(&product), read(&expected));
    // Transposed operands, and dimensions that broadcast.
    let turned = apply(&scope, "transpose/1", &[&a], &swap);
    let turned3 = apply(&scope, "transpose/1", &[&a3], &swap);
    let product = apply(&scope, "matmul/1", &[&turned, &a], &[]);
    let expected = apply(&scope, "matmul/1", &[&turned3, &a3], &[]);
    assert_eq!(read(&product), read(&expected));
    let (few, many) = (filled(&[1, 2, 1, 2, 3]), filled(&[2, 1, 2, 3, 2]));
    let product = apply(&scope, "matmul/1", &[&few, &many], &[]);
    assert_eq!(product.shape(), [2, 2, 2, 2, 2]);
    let wide = |x: &Tensor, shape: &[i64]| apply(&scope, "broadcast_to/1", &[x], &[Attr::Ints(shape.to_vec())]);
    let flat = |x: &Tensor, shape: &[i64]| apply(&scope, "reshape/1", &[x], &[Attr::Ints(shape.to_vec())]);
    let left = flat(&wide(&few, &[2, 2, 2, 2, 3]), &[8, 2, 3]);
    let right = flat(&wide(&many, &[2, 2, 2, 3, 2]), &[8, 3, 2]);
    let expected = apply(&scope, "matmul/1", &[&left, &right], &[]);
    assert_eq!(read(&product), read(&expected));
}

#[test]
fn extremes_are_found_along_dimensions_that_a_broadcast_has_left_without_a_stride() {
    let (scope, _) = scope(1 << 20);
    let full = |shape: &[i64]| apply(&scope, "full/1", &[], &[Attr::Ints(shape.to_vec()), Attr::Float(3.0)]);
    for (op, shape) in [
        ("max/1", [1, 1]),
        ("min/1", [1, 1]),
        ("max/1", [1, 3]),
        ("min/1", [3, 1]),
    ] {
        let found = apply(&scope, op, &[&full(&shape)], &[Attr::Ints(vec![0, 1])]);
        assert_eq!(scope.read(&found).unwrap(), 3_f32.to_le_bytes(), "{op} {shape:?}");
    }
    for op in ["argmax/1", "argmin/1"] {
        let found = apply(&scope, op, &[&full(&[1, 1])], &[Attr::Int(1)]);
        assert_eq!(scope.read(&found).unwrap(), 0_u32.to_le_bytes(), "{op}");
    }
}

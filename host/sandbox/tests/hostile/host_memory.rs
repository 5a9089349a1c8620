//! Guests that want the host's memory: handles, tensors, caches, programs, long arguments.

use maquette_fixtures as fixtures;
use maquette_sandbox::{Code, Limits};

use crate::common::{Host, call, limits};
use crate::{TENSORS, predict, survives, well};

#[test]
fn tensors_are_refused_beyond_the_budget_and_the_guest_may_go_on() {
    let host = Host::new();
    // Uploads 64 KiB (u8) until refused, then returns the error's code as a digit.
    let body = r#"
      (func $predict (param $p i32) (param $n i32) (result i32)
        (loop $l
          (call $upload (i32.const 3) (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const 65536) (i32.const 5000))
          (br_if $l (i32.eqz (i32.load8_u (i32.const 5000)))))
        (i32.store8 (i32.const 4100) (i32.add (i32.const 48) (i32.load8_u (i32.const 5004))))
        (call $ok (i32.const 4100) (i32.const 1)))
      (data (i32.const 4096) "\00\00\01\00")"#;
    let outcome = call(&host.open(&fixtures::component(TENSORS, body)), "{}");
    assert_eq!(outcome.result.unwrap().json, "4", "error-code quota is the fifth");
    assert!(outcome.report.tensor_bytes <= limits().tensor_bytes);
    assert!(outcome.report.tensor_bytes >= limits().tensor_bytes - (64 << 10));
}

#[test]
fn a_shape_whose_product_overflows_or_does_not_match_is_an_error() {
    let host = Host::new();
    let body = r#"
      (func $predict (param $p i32) (param $n i32) (result i32)
        (call $upload (i32.const 0) (i32.const 4096) (i32.const 4) (i32.const 0) (i32.const 0) (i32.const 5000))
        (i32.store8 (i32.const 4200) (i32.add (i32.const 48) (i32.load8_u (i32.const 5004))))
        (call $ok (i32.const 4200) (i32.load8_u (i32.const 5000))))
      (data (i32.const 4096) "\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff\ff")"#;
    assert_eq!(
        call(&host.open(&fixtures::component(TENSORS, body)), "{}")
            .result
            .unwrap()
            .json,
        "1",
        "code `shape`"
    );
}

#[test]
fn a_forged_or_dropped_handle_ends_the_sandbox() {
    for body in [
        "(func $predict (param i32 i32) (result i32) (call $read (i32.const 77) (i32.const 5000)) unreachable)",
        "(func $predict (param i32 i32) (result i32)
           (call $upload (i32.const 3) (i32.const 4096) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 5000))
           (call $drop (i32.load (i32.const 5004)))
           (call $read (i32.load (i32.const 5004)) (i32.const 5000)) unreachable)",
    ] {
        let (failure, _) = predict(&Host::new(), TENSORS, body);
        assert_eq!(failure.code, Code::Internal);
        let detail = failure.detail.unwrap();
        assert!(detail.contains("handle"), "{detail}");
    }
}

#[test]
fn an_upload_from_beyond_the_guests_memory_ends_the_sandbox() {
    let (failure, _) = predict(&Host::new(), TENSORS, "(func $predict (param i32 i32) (result i32)
      (call $upload (i32.const 3) (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 5000)) unreachable)");
    assert_eq!(failure.code, Code::Internal);
}

/// Repeats a call until its result at 5000 is an error; returns the digit of the error's code. `$i` counts.
fn until_refused(step: &str) -> String {
    format!(
        r#"(func $predict (param $p i32) (param $n i32) (result i32) (local $i i32)
        (loop $l
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          {step}
          (br_if $l (i32.eqz (i32.load8_u (i32.const 5000)))))
        (i32.store8 (i32.const 4200) (i32.add (i32.const 48) (i32.load8_u (i32.const 5004))))
        (call $ok (i32.const 4200) (i32.const 1)))"#
    )
}

/// `quota` is the fifth code.
const QUOTA: &str = "4";

/// A host that gives more time than the tests' limits do.
fn patient(host: &Host, imports: &str, functions: &str) -> (String, maquette_sandbox::Report) {
    let slow = Limits {
        timeout_ms: 20_000,
        ..limits()
    };
    let wasm = fixtures::component(imports, functions);
    let outcome = call(&host.try_open(&host.parts(&wasm, slow)).unwrap().0, "{}");
    well(host);
    (outcome.result.unwrap().json, outcome.report)
}

#[test]
fn a_flood_of_tensor_handles_is_refused_at_65536() {
    // One byte each: the budget of a mebibyte is not what stops them.
    let step =
        "(call $upload (i32.const 3) (i32.const 4096) (i32.const 0) (i32.const 4096) (i32.const 1) (i32.const 5000))";
    let (json, report) = patient(&Host::new(), TENSORS, &until_refused(step));
    assert_eq!(
        (json.as_str(), report.crossings, report.tensor_bytes),
        (QUOTA, 65_537, 65_537)
    );
}

#[test]
fn tensors_created_and_dropped_without_end_cost_what_one_costs() {
    let body = r#"(func $predict (param $p i32) (param $n i32) (result i32) (local $i i32)
        (loop $l
          (call $upload (i32.const 3) (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const 65536) (i32.const 5000))
          (call $drop (i32.load (i32.const 5004)))
          (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 2000))))
        (call $ok (local.get $p) (local.get $n)))
      (data (i32.const 4096) "\00\00\01\00")"#;
    let (_, report) = patient(&Host::new(), TENSORS, body);
    assert_eq!((report.crossings, report.tensor_bytes), (2000, 65_536));
}

const CACHES: &str = r#"
  (import "maquette:model/kv-cache@0.1.0" "[static]cache.create" (func $create (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/kv-cache@0.1.0" "[method]cache.fork" (func $fork (param i32 i32)))"#;

#[test]
fn a_flood_of_caches_or_forks_is_paid_for() {
    let create =
        "(call $create (i32.const 1024) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const -1) (i32.const 5000))";
    let (json, report) = patient(&Host::new(), CACHES, &until_refused(create));
    assert_eq!(json, QUOTA);
    assert_eq!(
        report.crossings,
        (1 << 20) / (1024 * 24) + 1,
        "a list of 24 bytes for each layer"
    );
    let fork = format!("(if (i32.eq (local.get $i) (i32.const 1)) (then {create} (i32.store (i32.const 4300) (i32.load (i32.const 5004)))))
      (call $fork (i32.load (i32.const 4300)) (i32.const 5000))");
    let (json, report) = patient(&Host::new(), CACHES, &until_refused(&fork));
    assert_eq!(json, QUOTA);
    assert!(
        report.crossings < 50 && report.tensor_bytes <= limits().tensor_bytes,
        "{report:?}"
    );
}

const PROGRAMS: &str = r#"
  (import "maquette:model/programs@0.1.0" "[static]program.compile" (func $compile
    (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/programs@0.1.0" "[static]program.find" (func $find (param i32 i32 i32)))"#;

#[test]
fn programs_that_a_sandbox_holds_are_bounded_whatever_the_cache_does() {
    // A constant of a mebibyte, different in each program, as its one output.
    let none = "(i32.const 0) (i32.const 0)";
    let body = until_refused(&format!(
        "(if (i32.eq (local.get $i) (i32.const 1)) (then (drop (memory.grow (i32.const 16)))))
         (i32.store (i32.const 65536) (local.get $i))
         (call $compile {none} {none} {none} (i32.const 4352) (i32.const 1) {none} {none} (i32.const 4416) (i32.const 1) (i32.const 5000))"
    )) + r#"
      (data (i32.const 4352) "\03\00\00\00\80\11\00\00\01\00\00\00\00\00\01\00\00\00\10\00")
      (data (i32.const 4416) "\00\00\00\00")
      (data (i32.const 4480) "\00\00\10\00")"#;
    let host = Host::new();
    let wide = Limits {
        timeout_ms: 60_000,
        memory_bytes: 32 << 20,
        tensor_bytes: 1 << 30,
        ..limits()
    };
    let wasm = fixtures::component(PROGRAMS, &body);
    let (guest, _) = host.try_open(&host.parts(&wasm, wide)).unwrap();
    let outcome = call(&guest, "{}");
    assert_eq!(outcome.result.unwrap().json, QUOTA);
    assert!((30..=65).contains(&outcome.report.crossings), "{:?}", outcome.report);
    well(&host);
}

#[test]
fn arguments_that_repeat_the_same_bytes_are_counted_each_time() {
    // A list of a hundred thousand strings that are all the same mebibyte: the host would copy 100 GB.
    let none = "(i32.const 0) (i32.const 0)";
    let body = format!(
        "(func $predict (param i32 i32) (result i32) (local $at i32)
        (drop (memory.grow (i32.const 200)))
        (local.set $at (i32.const 2097152))
        (loop $l
          (i32.store (local.get $at) (i32.const 65536))
          (i32.store offset=4 (local.get $at) (i32.const 1048576))
          (br_if $l (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 2897152))))
        (call $compile (i32.const 2097152) (i32.const 100000) {none} {none} {none} {none} {none} {none} (i32.const 5000)) unreachable)"
    );
    let (failure, report) = predict(&Host::new(), PROGRAMS, &body);
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Internal, "the model stopped: it broke a rule of the host")
    );
    let detail = failure.detail.unwrap();
    assert!(detail.contains("fuel"), "{detail}");
    assert_eq!(report.crossings, 0, "the host function was never entered");
}

#[test]
fn a_long_name_is_quoted_back_and_harms_nobody() {
    let imports = r#"(import "maquette:model/tensors@0.1.0" "resolve" (func $resolve (param i32 i32 i32)))"#;
    let body = r#"(func $predict (param $p i32) (param $n i32) (result i32)
        (drop (memory.grow (i32.const 40)))
        (memory.fill (i32.const 65536) (i32.const 120) (i32.const 2097152))
        (global.set $next (i32.const 2163712))
        (call $resolve (i32.const 65536) (i32.const 2097152) (i32.const 5000))
        (i32.store8 (i32.const 4200) (i32.add (i32.const 48) (i32.load8_u (i32.const 5004))))
        (call $ok (i32.const 4200) (i32.const 1)))"#;
    let (json, _) = patient(&Host::new(), imports, body);
    assert_eq!(json, "3", "unsupported");
}

const OPS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "resolve" (func $resolve (param i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "apply" (func $apply (param i32 i32 i32 i32 i32 i32)))"#;

#[test]
fn the_same_handle_twice_is_one_tensor_and_another_kinds_handle_is_refused() {
    let imports = format!("{TENSORS}{OPS}{CACHES}");
    let upload =
        "(call $upload (i32.const 3) (i32.const 4096) (i32.const 0) (i32.const 4096) (i32.const 1) (i32.const 5000))
      (i32.store (i32.const 4300) (i32.load (i32.const 5004))) (i32.store (i32.const 4304) (i32.load (i32.const 5004)))
      (call $resolve (i32.const 4400) (i32.const 5) (i32.const 5000))";
    let data = r#"(data (i32.const 4096) "7") (data (i32.const 4400) "add/1")"#;
    let body = format!(
        "(func $predict (param $p i32) (param $n i32) (result i32) {upload}
        (call $apply (i32.load (i32.const 5004)) (i32.const 4300) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 5000))
        (if (i32.load8_u (i32.const 5000)) (then unreachable))
        (call $ok (local.get $p) (local.get $n))) {data}"
    );
    assert_eq!(survives(&Host::new(), &imports, &body).0, "{}");
    let body = format!(
        "(func $predict (param i32 i32) (result i32) {upload}
        (call $fork (i32.load (i32.const 4300)) (i32.const 5000)) unreachable) {data}"
    );
    let (failure, _) = predict(&Host::new(), &imports, &body);
    assert_eq!(failure.code, Code::Internal);
    assert!(failure.detail.unwrap().contains("handle"), "a tensor is no cache");
}

#[test]
fn output_files_are_bounded_together() {
    let imports = r#"(import "maquette:model/files@0.1.0" "[static]output-file.create" (func $create (param i32 i32 i32)))
      (import "maquette:model/files@0.1.0" "[method]output-file.write" (func $write (param i32 i32 i32 i32)))"#;
    let step = "(call $create (i32.const 4096) (i32.const 0) (i32.const 5000))
      (call $write (i32.load (i32.const 5004)) (i32.const 8192) (i32.const 1000) (i32.const 5000))";
    let (json, report) = patient(&Host::new(), imports, &until_refused(step));
    assert_eq!((json.as_str(), report.crossings), (QUOTA, 2 * (65_536 / 1000 + 1)));
    let flood = "(call $create (i32.const 4096) (i32.const 0) (i32.const 5000))";
    let (json, report) = patient(&Host::new(), imports, &until_refused(flood));
    assert_eq!((json.as_str(), report.crossings), (QUOTA, 65_537));
}

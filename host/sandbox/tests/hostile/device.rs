//! Guests that want the tensor device for themselves, and resources of their own that never end.

use maquette_fixtures as fixtures;
use maquette_sandbox::{Code, Failure, Limits};

use crate::common::hostile::{TENSORS, well};
use crate::common::{Host, call, limits};
use crate::refused;

const OPS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "resolve" (func $resolve (param i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "apply" (func $apply (param i32 i32 i32 i32 i32 i32)))"#;

#[test]
fn a_flood_of_small_ops_is_counted_and_ends_at_the_deadline() {
    let imports = format!("{TENSORS}{OPS}");
    let ops = |until: &str| {
        format!(
            r#"(func $predict (param $p i32) (param $n i32) (result i32) (local $i i32) (local $op i32)
        (call $upload (i32.const 3) (i32.const 4096) (i32.const 0) (i32.const 4096) (i32.const 1) (i32.const 5000))
        (i32.store (i32.const 4300) (i32.load (i32.const 5004))) (i32.store (i32.const 4304) (i32.load (i32.const 5004)))
        (call $resolve (i32.const 4400) (i32.const 5) (i32.const 5000))
        (local.set $op (i32.load (i32.const 5004)))
        (loop $l
          (call $apply (local.get $op) (i32.const 4300) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 5000))
          (if (i32.load8_u (i32.const 5000)) (then unreachable))
          (call $drop (i32.load (i32.const 5004)))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $l {until}))
        (call $ok (local.get $p) (local.get $n)))
      (data (i32.const 4096) "7") (data (i32.const 4400) "add/1")"#
        )
    };
    let host = Host::new();
    let slow = Limits {
        timeout_ms: 20_000,
        ..limits()
    };
    let wasm = fixtures::component(&imports, &ops("(i32.lt_u (local.get $i) (i32.const 10000))"));
    let outcome = call(&host.try_open(&host.parts(&wasm, slow)).unwrap().0, "{}");
    assert_eq!(outcome.result.unwrap().json, "{}");
    assert_eq!((outcome.report.ops, outcome.report.tensor_bytes), (10_000, 2));
    let outcome = call(&host.open(&fixtures::component(&imports, &ops("(i32.const 1)"))), "{}");
    let failure = outcome.result.unwrap_err();
    // The op that comes too late is refused with `timeout`, on which this guest gives up; or the clock ticks first.
    assert!(
        matches!(failure.code, Code::Timeout | Code::Internal) && outcome.report.total_us < 5_000_000,
        "{failure:?}"
    );
    well(&host);
}

/// A component with a resource of its own, whose destructor never returns, and with more fields.
fn resourceful(predict: &str, fields: &str) -> Vec<u8> {
    let text = format!(
        r#"(component
  (import "maquette:model/types@0.1.0" (instance $types
    (type $c (enum "invalid-input" "shape" "dtype" "unsupported" "quota" "cancelled" "timeout" "internal"))
    (export "error-code" (type $code (eq $c)))
    (type $e (record (field "code" $code) (field "message" string)))
    (export "error" (type $error (eq $e)))))
  (alias export $types "error" (type $error))
  {fields}
  (core module $looping (func (export "destructor") (param i32) (loop $l (br $l))))
  (core instance $looping (instantiate $looping))
  (type $r (resource (rep i32) (dtor (core func $looping "destructor"))))
  (core func $new (canon resource.new $r))
  (core func $drop (canon resource.drop $r))
  (core module $m
    (import "r" "new" (func $new (param i32) (result i32)))
    (import "r" "drop" (func $drop (param i32)))
    (memory (export "memory") 2)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
    (func (export "describe") (result i32) (i32.const 0))
    (func (export "load") (result i32) (i32.const 32))
    (func (export "predict") (param i32 i32) (result i32) {predict} unreachable)
    (data (i32.const 0) "\40\00\00\00\02\00\00\00\40\00\00\00\02\00\00\00\40\00\00\00\01\00\00\00")
    (data (i32.const 64) "{{}}"))
  (core instance $i (instantiate $m (with "r" (instance (export "new" (func $new)) (export "drop" (func $drop))))))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (type $d (record (field "input" string) (field "output" string) (field "sdk" string)))
  (export $description "description" (type $d))
  (func $describe (result $description) (canon lift (core func $i "describe") (memory $memory)))
  (func $load (result (result (error $error))) (canon lift (core func $i "load") (memory $memory)))
  (func $predict (param "input" string) (result (result string (error $error)))
    (canon lift (core func $i "predict") (memory $memory) (realloc $realloc)))
  (instance $p
    (export "describe" (func $describe)) (export "load" (func $load)) (export "predict" (func $predict)))
  (export "maquette:model/predictor@0.1.0" (instance $p)))"#
    );
    wat::parse_str(text).unwrap()
}

fn ends(wasm: &[u8], limits: Limits) -> Failure {
    let host = Host::new();
    let failure = call(&host.try_open(&host.parts(wasm, limits)).unwrap().0, "{}")
        .result
        .unwrap_err();
    well(&host);
    failure
}

#[test]
fn a_destructor_that_loops_is_stopped_at_the_deadline() {
    let failure = ends(&resourceful("(call $drop (call $new (i32.const 1)))", ""), limits());
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Timeout, "`predict` did not end within 300 ms")
    );
}

#[test]
fn a_destructor_that_loops_is_not_run_for_what_a_guest_left_behind() {
    // The store goes without calling the guest again.
    let failure = ends(&resourceful("(drop (call $new (i32.const 1)))", ""), limits());
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Internal, "the model panicked")
    );
}

#[test]
fn a_flood_of_the_guests_own_resources_ends_the_sandbox() {
    let slow = Limits {
        timeout_ms: 20_000,
        ..limits()
    };
    let failure = ends(
        &resourceful("(loop $l (drop (call $new (i32.const 1))) (br $l))", ""),
        slow,
    );
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Internal, "the model stopped: it broke a rule of the host")
    );
    let detail = failure.detail.unwrap();
    assert!(detail.contains("handle"), "{detail}");
}

#[test]
fn more_core_instances_than_a_sandbox_may_take_are_refused() {
    let fields = format!("(core module $e) {}", "(core instance (instantiate $e))".repeat(40));
    let error = refused(&Host::new(), &resourceful("", &fields));
    assert!(error.message.contains("instances"), "{error}");
}

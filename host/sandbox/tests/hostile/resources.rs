//! Components with resources and instances of their own.

use maquette_sandbox::{Code, Failure, Limits};

use crate::common::hostile::well;
use crate::common::{Host, call, limits};
use crate::refused;

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

//! Components with resources and instances of their own.

use maquette_sandbox::{Call, Code, Failure, Limits};

use crate::common::{Host, limits};
use crate::{RULE, ended, refused, told};

/// What the contract calls an error, as an import.
const TYPES: &str = r#"(import "maquette:model/types@0.1.0" (instance $types
    (type $c (enum "invalid-input" "shape" "dtype" "unsupported" "quota" "cancelled" "timeout" "internal"))
    (export "error-code" (type $code (eq $c)))
    (type $e (record (field "code" $code) (field "message" string)))
    (export "error" (type $error (eq $e)))))
  (alias export $types "error" (type $error))"#;

/// A predictor `$p` with a body of `predict` that calls core functions, which come from an instance of `given` as `imports` of "r".
fn predictor(imports: &str, given: &str, predict: &str) -> String {
    format!(
        r#"(core module $m
    {imports}
    (memory (export "memory") 2)
    (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 65536))
    (func (export "describe") (result i32) (i32.const 0))
    (func (export "load") (result i32) (i32.const 32))
    (func $predict (export "predict") (param i32 i32) (result i32) {predict} unreachable)
    (data (i32.const 0) "\40\00\00\00\02\00\00\00\40\00\00\00\02\00\00\00\40\00\00\00\01\00\00\00")
    (data (i32.const 64) "{{}}"))
  (core instance $i (instantiate $m (with "r" (instance {given}))))
  (alias core export $i "memory" (core memory $memory))
  (alias core export $i "realloc" (core func $realloc))
  (type $d (record (field "input" string) (field "output" string) (field "sdk" string)))
  (export $description "description" (type $d))
  (func $describe (result $description) (canon lift (core func $i "describe") (memory $memory)))
  (func $load (result (result (error $error))) (canon lift (core func $i "load") (memory $memory)))
  (func $predict (param "input" string) (result (result string (error $error)))
    (canon lift (core func $i "predict") (memory $memory) (realloc $realloc)))
  (instance $p
    (export "description" (type $description)) (export "error" (type $error))
    (export "describe" (func $describe)) (export "load" (func $load)) (export "predict" (func $predict)))"#
    )
}

/// A component with a resource of its own, whose destructor never returns, and with more fields.
fn resourceful(predict: &str, fields: &str) -> Vec<u8> {
    let imports =
        r#"(import "r" "new" (func $new (param i32) (result i32))) (import "r" "drop" (func $drop (param i32)))"#;
    let given = r#"(export "new" (func $new)) (export "drop" (func $drop))"#;
    let text = format!(
        r#"(component
  {TYPES}
  {fields}
  (core module $looping (func (export "destructor") (param i32) (loop $l (br $l))))
  (core instance $looping (instantiate $looping))
  (type $r (resource (rep i32) (dtor (core func $looping "destructor"))))
  (core func $new (canon resource.new $r))
  (core func $drop (canon resource.drop $r))
  {}
  (export "maquette:model/predictor@0.1.0" (instance $p)))"#,
        predictor(imports, given, predict)
    );
    wat::parse_str(text).unwrap()
}

/// Three components in one: one makes resources, one keeps what it borrows when it returns, and a predictor has both.
fn keeping(predict: &str) -> Vec<u8> {
    let imports = r#"(import "r" "make" (func $make (result i32))) (import "r" "keep" (func $keep (param i32)))"#;
    let given = r#"(export "make" (func $make)) (export "keep" (func $keep))"#;
    let text = format!(
        r#"(component
  {TYPES}
  (component $maker
    (type $own (resource (rep i32)))
    (core func $new (canon resource.new $own))
    (core module $m (import "r" "new" (func $new (param i32) (result i32)))
      (func (export "make") (result i32) (call $new (i32.const 7))))
    (core instance $m (instantiate $m (with "r" (instance (export "new" (func $new))))))
    (export $r "r" (type $own))
    (func (export "make") (result (own $r)) (canon lift (core func $m "make"))))
  (component $keeper
    (import "r" (type $r (sub resource)))
    (core module $m (func (export "keep") (param i32)))
    (core instance $m (instantiate $m))
    (func (export "keep") (param "r" (borrow $r)) (canon lift (core func $m "keep"))))
  (component $model
    {TYPES}
    (import "r" (type $r (sub resource)))
    (import "make" (func $make (result (own $r))))
    (import "keep" (func $keep (param "r" (borrow $r))))
    (core func $make (canon lower (func $make)))
    (core func $keep (canon lower (func $keep)))
    {}
    (export "predictor" (instance $p)))
  (instance $maker (instantiate $maker))
  (alias export $maker "r" (type $r))
  (instance $keeper (instantiate $keeper (with "r" (type $r))))
  (instance $model (instantiate $model
    (with "maquette:model/types@0.1.0" (instance $types)) (with "r" (type $r))
    (with "make" (func $maker "make")) (with "keep" (func $keeper "keep"))))
  (export "maquette:model/predictor@0.1.0" (instance $model "predictor")))"#,
        predictor(imports, given, predict)
    );
    wat::parse_str(text).unwrap()
}

fn ends(wasm: &[u8], limits: Limits) -> Failure {
    let host = Host::new();
    let guest = host.try_open(&host.parts(wasm, limits)).unwrap().0;
    let call = Call {
        input: "{}".into(),
        ..Call::default()
    };
    ended(&host, &guest, call).result.unwrap_err()
}

#[test]
fn a_destructor_that_loops_is_stopped_at_the_deadline() {
    let failure = ends(&resourceful("(call $drop (call $new (i32.const 1)))", ""), limits());
    let detail = "cause: the deadline passed\n  0: function 0\n  1: predict\n";
    assert_eq!(
        told(&failure),
        (Code::Timeout, "`predict` did not end within 300 ms", Some(detail))
    );
}

#[test]
fn a_destructor_that_loops_is_not_run_for_what_a_guest_left_behind() {
    // The store goes without calling the guest again.
    let failure = ends(&resourceful("(drop (call $new (i32.const 1)))", ""), limits());
    let detail = "cause: wasm trap: wasm `unreachable` instruction executed\n  0: predict\n";
    assert_eq!(told(&failure), (Code::Internal, "the model panicked", Some(detail)));
}

#[test]
fn a_borrow_that_is_kept_past_its_call_ends_the_sandbox() {
    let failure = ends(&keeping("(call $keep (call $make))"), limits());
    let detail = "cause: borrow handles still remain at the end of the call\n  0: function 8\n  1: predict\n";
    assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail)));
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
    let detail = "cause: cannot allocate another handle: store handle limit exceeded\n  0: predict\n";
    assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail)));
}

#[test]
fn more_core_instances_than_a_sandbox_may_take_are_refused() {
    let fields = format!("(core module $e) {}", "(core instance (instantiate $e))".repeat(40));
    let error = refused(&Host::new(), &resourceful("", &fields));
    assert_eq!(
        error.message,
        "the component takes more than a sandbox has, which is 32 core instances, 4 memories of up to 1073741824 bytes, 16 tables of 100000 \
         elements, one for each core module: The component transitively contains 42 core module instances, which exceeds the configured \
         maximum of 32 in the pooling allocator"
    );
}

//! Guests that want the host's memory: handles, tensors, caches, programs, long arguments.

use maquette_sandbox::{Code, Limits};

use crate::common::{Host, limits};
use crate::{RULE, TENSORS, called, passed_on, patient, predict, survives, told};

#[test]
fn tensors_are_refused_beyond_the_budget_and_the_guest_may_go_on() {
    // Uploads 64 KiB (u8) until refused.
    let step =
        "(call $upload (i32.const 3) (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const 65536) (i32.const 5000))";
    let size = r#"(data (i32.const 4096) "\00\00\01\00")"#;
    let outcome = patient(&Host::new(), TENSORS, &(until_refused(step) + size));
    assert_eq!(outcome.report.tensor_bytes, limits().tensor_bytes, "to the last byte");
    assert_eq!(passed_on(outcome), beyond("u8[65536]: ", 65_536, 1 << 20));
    // Whoever gives one back may have another.
    let body = format!(
        "(func $predict (param $p i32) (param $n i32) (result i32)
        (loop $l {step}
          (if (i32.eqz (i32.load8_u (i32.const 5000))) (then (local.set $n (i32.load (i32.const 5004))) (br $l))))
        (call $drop (local.get $n)) {step}
        (if (i32.load8_u (i32.const 5000)) (then unreachable))
        (call $ok (local.get $p) (i32.const 2))) {size}"
    );
    assert_eq!(survives(&Host::new(), TENSORS, &body).0, "{}");
}

#[test]
fn a_shape_whose_product_overflows_or_does_not_match_is_an_error() {
    for (shape, rank, bytes, message) in [
        (
            r"\ff".repeat(16),
            4,
            0,
            "[4294967295, 4294967295, 4294967295, 4294967295] has more than the 2147483647 elements that are allowed",
        ),
        (
            r"\03\00\00\00".to_owned(),
            1,
            8,
            "8 bytes were given for f32[3], which takes 12",
        ),
        (
            r"\01\00\00\00".repeat(9),
            9,
            4,
            "a shape has 9 dimensions; at most 8 are allowed",
        ),
    ] {
        let body = format!(
            r#"(func $predict (param i32 i32) (result i32)
            (call $upload (i32.const 0) (i32.const 4096) (i32.const {rank}) (i32.const 0) (i32.const {bytes}) (i32.const 5000))
            (i32.const 5000))
          (data (i32.const 4096) "{shape}")"#
        );
        assert_eq!(
            passed_on(called(&Host::new(), TENSORS, &body, limits())),
            (Code::Shape, message.to_owned())
        );
    }
}

#[test]
fn a_forged_or_dropped_handle_ends_the_sandbox() {
    for (handle, body) in [
        (
            77,
            "(func $predict (param i32 i32) (result i32) (call $read (i32.const 77) (i32.const 5000)) unreachable)",
        ),
        (
            1,
            "(func $predict (param i32 i32) (result i32)
           (call $upload (i32.const 3) (i32.const 4096) (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 5000))
           (call $drop (i32.load (i32.const 5004)))
           (call $read (i32.load (i32.const 5004)) (i32.const 5000)) unreachable)",
        ),
    ] {
        let (failure, _) = predict(&Host::new(), TENSORS, body);
        let detail = format!("cause: unknown handle index {handle}\n  0: function 1\n  1: predict\n");
        assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail.as_str())));
    }
}

#[test]
fn an_upload_from_beyond_the_guests_memory_ends_the_sandbox() {
    let (failure, _) = predict(&Host::new(), TENSORS, "(func $predict (param i32 i32) (result i32)
      (call $upload (i32.const 3) (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const -1) (i32.const 5000)) unreachable)");
    let detail = "cause: list pointer/length out of bounds of memory\n  0: function 0\n  1: predict\n";
    assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail)));
}

/// Repeats a call until its result at 5000 is an error, and returns that. `$i` counts.
fn until_refused(step: &str) -> String {
    format!(
        "(func $predict (param $p i32) (param $n i32) (result i32) (local $i i32)
        (loop $l
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          {step}
          (br_if $l (i32.eqz (i32.load8_u (i32.const 5000)))))
        (i32.const 5000))"
    )
}

/// The refusal of bytes of tensors and caches beyond the tests' limits.
fn beyond(place: &str, needed: u64, used: u64) -> (Code, String) {
    let message = format!(
        "{place}{needed} bytes of tensors are needed; {used} of 1048576 are in use: drop tensors, use smaller batches, or ask for more in [limits]"
    );
    (Code::Quota, message)
}

/// The refusal of one more object of a kind than a sandbox may hold.
fn one_too_many(what: &str) -> (Code, String) {
    let message = format!("a sandbox may hold at most 65536 {what}: drop those no longer used");
    (Code::Quota, message)
}

#[test]
fn a_flood_of_tensor_handles_is_refused_at_65536() {
    // One byte each: the budget of a mebibyte is not what stops them.
    let step =
        "(call $upload (i32.const 3) (i32.const 4096) (i32.const 0) (i32.const 4096) (i32.const 1) (i32.const 5000))";
    let outcome = patient(&Host::new(), TENSORS, &until_refused(step));
    assert_eq!(
        (outcome.report.crossings, outcome.report.tensor_bytes),
        (65_537, 65_537)
    );
    assert_eq!(passed_on(outcome), one_too_many("tensors"));
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
    let outcome = patient(&Host::new(), TENSORS, body);
    assert_eq!(outcome.result.unwrap().json, "{}");
    assert_eq!((outcome.report.crossings, outcome.report.tensor_bytes), (2000, 65_536));
}

const CACHES: &str = r#"
  (import "maquette:model/kv-cache@0.1.0" "[static]cache.create" (func $create (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/kv-cache@0.1.0" "[method]cache.fork" (func $fork (param i32 i32)))"#;

#[test]
fn a_flood_of_caches_or_forks_is_paid_for() {
    let create =
        "(call $create (i32.const 1024) (i32.const 1) (i32.const 1) (i32.const 1) (i32.const -1) (i32.const 5000))";
    let outcome = patient(&Host::new(), CACHES, &until_refused(create));
    assert_eq!(
        outcome.report.crossings,
        (1 << 20) / (1024 * 24) + 1,
        "a list of 24 bytes for each layer"
    );
    assert_eq!(passed_on(outcome), beyond("the cache: ", 24_576, 42 * 24_576));
    let fork = format!("(if (i32.eq (local.get $i) (i32.const 1)) (then {create} (i32.store (i32.const 4300) (i32.load (i32.const 5004)))))
      (call $fork (i32.load (i32.const 4300)) (i32.const 5000))");
    let outcome = patient(&Host::new(), CACHES, &until_refused(&fork));
    assert!(
        outcome.report.crossings < 50 && outcome.report.tensor_bytes <= limits().tensor_bytes,
        "{:?}",
        outcome.report
    );
    assert_eq!(
        passed_on(outcome),
        beyond("the fork of the cache: ", 24_576, 42 * 24_576)
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
    let outcome = called(&host, PROGRAMS, &body, wide);
    assert!((30..=65).contains(&outcome.report.crossings), "{:?}", outcome.report);
    assert_eq!(passed_on(outcome), (
            Code::Quota,
            "the programs that the sandbox holds would take 67112960 bytes; the limit is 67108864: drop those no longer used".to_owned()
        ));
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
    let detail = "cause: too much data is being copied between the host and the guest: fuel allocated for hostcalls has been exhausted\n  0: \
                  function 0\n  1: predict\n";
    assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail)));
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
        (i32.const 5000))"#;
    let (code, message) = passed_on(patient(&Host::new(), imports, body));
    assert_eq!(
        (code, message),
        (
            Code::Unsupported,
            format!(
                "there is no op `{}`; the nearest are `argmax/1`, `exp/1`, `expm1/1`. `maquette ops` lists them all",
                "x".repeat(64)
            )
        )
    );
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
    let detail = "cause: handle index 1 used with the wrong type, expected guest-defined resource but found a different guest-defined \
                  resource\n  0: function 5\n  1: predict\n";
    assert_eq!(
        told(&failure),
        (Code::Internal, RULE, Some(detail)),
        "a tensor is no cache"
    );
}

#[test]
fn output_files_are_bounded_together() {
    let imports = r#"(import "maquette:model/files@0.1.0" "[static]output-file.create" (func $create (param i32 i32 i32)))
      (import "maquette:model/files@0.1.0" "[method]output-file.write" (func $write (param i32 i32 i32 i32)))"#;
    let step = "(call $create (i32.const 4096) (i32.const 0) (i32.const 5000))
      (call $write (i32.load (i32.const 5004)) (i32.const 8192) (i32.const 1000) (i32.const 5000))";
    let outcome = patient(&Host::new(), imports, &until_refused(step));
    assert_eq!(outcome.report.crossings, 2 * (65_536 / 1000 + 1));
    let message = "output files would take 66000 bytes; the limit is 65536";
    assert_eq!(passed_on(outcome), (Code::Quota, message.to_owned()));
    let flood = "(call $create (i32.const 4096) (i32.const 0) (i32.const 5000))";
    let outcome = patient(&Host::new(), imports, &until_refused(flood));
    assert_eq!(outcome.report.crossings, 65_537);
    assert_eq!(passed_on(outcome), one_too_many("output files"));
}

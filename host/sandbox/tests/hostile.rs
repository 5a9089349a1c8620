//! What a hostile guest gets, and that the host is well afterwards.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::time::{Duration, Instant};

use common::{Host, call, call_with, limits};
use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, Cancel, Code, EPOCH_TICK, ErrorKind, Failure, Limits};

/// How late a stop may be: the tick, and a machine that is busy with other tests.
const LATE: Duration = Duration::from_millis(20 * EPOCH_TICK.as_millis() as u64);

fn predict(host: &Host, imports: &str, functions: &str) -> (Failure, maquette_sandbox::Report) {
    let guest = host.open(&fixtures::component(imports, functions));
    let outcome = call(&guest, "{}");
    let good = host.open(&fixtures::echo());
    assert_eq!(
        call(&good, "[1]").result.unwrap().json,
        "[1]",
        "a good guest is served afterwards"
    );
    (outcome.result.unwrap_err(), outcome.report)
}

#[test]
fn a_guest_that_loops_is_stopped_at_its_deadline() {
    let body = "(func $predict (param i32 i32) (result i32) (loop $l (br $l)) unreachable)";
    let host = Host::new();
    let started = Instant::now();
    let guest = host.open(&fixtures::component("", body));
    let began = Instant::now();
    let failure = call(&guest, "{}").result.unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Timeout, "`predict` did not end within 300 ms")
    );
    assert!(
        began.elapsed() < Duration::from_millis(300) + LATE,
        "{:?} of {:?}",
        began.elapsed(),
        started.elapsed()
    );
}

#[test]
fn a_load_that_loops_is_refused() {
    let host = Host::new();
    let body = "(func $load (result i32) (loop $l (br $l)) unreachable)";
    let error = host
        .try_open(&host.parts(&fixtures::component("", body), limits()))
        .err()
        .unwrap();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Component, "`load` failed: `load` did not end within 300 ms")
    );
}

#[test]
fn a_start_function_that_loops_is_refused() {
    let host = Host::new();
    let body = "(func $s (loop $l (br $l))) (start $s)";
    let error = host
        .try_open(&host.parts(&fixtures::component("", body), limits()))
        .err()
        .unwrap();
    assert!(error.message.contains("did not end within 300 ms"), "{error}");
}

#[test]
fn an_allocator_that_loops_is_stopped_at_the_deadline() {
    // The host asks the guest for memory to pass the input in; this guest never gives it.
    let body = "(func $realloc (param i32 i32 i32 i32) (result i32) (loop $l (br $l)) unreachable)";
    let host = Host::new();
    let guest = host.open(&fixtures::component("", body));
    assert_eq!(call(&guest, "{}").result.unwrap_err().code, Code::Timeout);
}

#[test]
fn a_cancelled_call_stops_within_a_tick_or_so() {
    let host = Host::new();
    let body = "(func $predict (param i32 i32) (result i32) (loop $l (br $l)) unreachable)";
    let slow = Limits {
        timeout_ms: 60_000,
        ..limits()
    };
    let (guest, _) = host
        .try_open(&host.parts(&fixtures::component("", body), slow))
        .unwrap();
    let cancel = Cancel::default();
    let remote = cancel.clone();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        remote.cancel();
        Instant::now()
    });
    let failure = call_with(
        &guest,
        Call {
            input: "{}".into(),
            cancel,
            ..Call::default()
        },
    )
    .result
    .unwrap_err();
    assert!(canceller.join().unwrap().elapsed() < LATE);
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Cancelled, "the call was cancelled")
    );
}

#[test]
fn a_guest_that_recurses_without_end_is_stopped() {
    let body = "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))
      (func $predict (param i32 i32) (result i32) (call $deep))";
    let (failure, _) = predict(&Host::new(), "", body);
    assert_eq!(failure.code, Code::Quota);
    assert_eq!(failure.message, "the model recursed too deeply: its stack is 1 MiB");
}

#[test]
fn a_guest_that_grows_meets_its_limit_and_the_caller_is_told() {
    let body = "(func $predict (param i32 i32) (result i32)
        (loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable)";
    let (failure, report) = predict(&Host::new(), "", body);
    assert_eq!(failure.code, Code::Quota);
    assert!(
        failure.message.starts_with("the model ran out of memory: it wanted"),
        "{}",
        failure.message
    );
    assert!(report.guest_memory_bytes <= limits().memory_bytes);
}

#[test]
fn many_memories_share_one_limit() {
    let host = Host::new();
    let body = "(memory $b 200) (memory $c 200)";
    let error = host
        .try_open(&host.parts(&fixtures::component("", body), limits()))
        .err()
        .unwrap();
    assert!(error.message.contains("ran out of memory"), "{error}");
}

#[test]
fn a_trap_is_short_for_the_caller_and_whole_for_the_contributor() {
    let body = "(func $faulty (result i32) unreachable)
      (func $predict (param i32 i32) (result i32) (call $faulty))";
    let (failure, _) = predict(&Host::new(), "", body);
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Internal, "the model panicked")
    );
    let detail = failure.detail.unwrap();
    assert!(
        detail.contains("unreachable") && detail.contains("0: faulty") && detail.contains("1: predict"),
        "{detail}"
    );
}

#[test]
fn load_may_not_touch_tensors() {
    let host = Host::new();
    let imports = r#"(import "maquette:model/tensors@0.1.0" "resolve" (func $resolve (param i32 i32 i32)))"#;
    let body = "(func $load (result i32) (call $resolve (i32.const 0) (i32.const 0) (i32.const 5000)) (i32.const 32))";
    let error = host
        .try_open(&host.parts(&fixtures::component(imports, body), limits()))
        .err()
        .unwrap();
    assert!(
        error
            .message
            .contains("`load` is pure and may not call tensors.resolve"),
        "{error}"
    );
}

#[test]
fn an_output_that_is_not_json_or_too_large_is_refused() {
    let host = Host::new();
    let (failure, _) = predict(
        &host,
        "",
        r#"
      (func $predict (param i32 i32) (result i32) (call $ok (i32.const 4096) (i32.const 3))) (data (i32.const 4096) "{a}")"#,
    );
    assert_eq!(failure.code, Code::Internal);
    assert!(failure.message.contains("not JSON"), "{}", failure.message);
    let (failure, _) = predict(
        &host,
        "",
        "
      (func $predict (param i32 i32) (result i32) (call $ok (call $alloc (i32.const 70000)) (i32.const 70000)))",
    );
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Quota, "the output takes 70000 bytes; the limit is 65536")
    );
}

#[test]
fn an_output_beyond_the_guests_memory_ends_the_sandbox_and_nothing_else() {
    let (failure, _) = predict(
        &Host::new(),
        "",
        "(func $predict (param i32 i32) (result i32) (call $ok (i32.const 4096) (i32.const -1)))",
    );
    assert_eq!(failure.code, Code::Internal);
}

#[test]
fn a_log_flood_is_bounded_and_counted() {
    let host = Host::new();
    let imports = r#"(import "maquette:model/run@0.1.0" "log" (func $log (param i32 i32 i32)))"#;
    let body = r#"
      (func $predict (param $p i32) (param $n i32) (result i32) (local $i i32)
        (loop $l
          (call $log (i32.const 1) (i32.const 4096) (i32.const 16))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $i) (i32.const 10000))))
        (call $ok (local.get $p) (local.get $n)))
      (data (i32.const 4096) "0123456789abcdef")"#;
    let outcome = call(&host.open(&fixtures::component(imports, body)), "{}");
    assert!(outcome.result.is_ok());
    assert_eq!(
        (outcome.report.logs.len(), outcome.report.dropped_log_bytes),
        (128, (10_000 - 128) * 16)
    );
}

const TENSORS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "[static]tensor.from-bytes" (func $upload (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[method]tensor.read" (func $read (param i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))"#;

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

#[test]
fn a_thousand_hostile_calls_leave_no_tensor_bytes_behind() {
    let host = Host::new();
    // Holds tensors and traps.
    let body = "(func $predict (param i32 i32) (result i32)
        (call $upload (i32.const 3) (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const 65536) (i32.const 5000))
        unreachable) (data (i32.const 4096) \"\\00\\00\\01\\00\")";
    let guest = host.open(&fixtures::component(TENSORS, body));
    let before = resident();
    for _ in 0..1000 {
        let outcome = call(&guest, "{}");
        assert_eq!(outcome.result.unwrap_err().code, Code::Internal);
        assert_eq!(outcome.report.tensor_bytes, 65536);
    }
    let grown = resident().saturating_sub(before);
    assert!(
        grown < 32 << 20,
        "1,000 calls that each held 64 KiB grew the host by {grown} bytes"
    );
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

//! Guests that want more time than they have.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, Cancel, Code, EPOCH_TICK, Limits};

use crate::common::{Host, call, call_with, limits};
use crate::{RULE, predict, refused, told, well};

/// How late a stop may be: the tick, and a machine that is busy with other tests.
const LATE: Duration = Duration::from_millis(100 * EPOCH_TICK.as_millis() as u64);

/// A guest is stopped at its deadline, and not long after it.
fn stopped(imports: &str, functions: &str) {
    let host = Host::new();
    let guest = host.open(&fixtures::component(imports, functions));
    let began = Instant::now();
    let failure = call(&guest, "{}").result.unwrap_err();
    let took = began.elapsed();
    assert_eq!(
        (failure.code, failure.message.as_str(), failure.broke),
        (Code::Timeout, "`predict` did not end within 300 ms", false)
    );
    // And then where it was.
    let detail = failure.detail.unwrap();
    assert!(detail.starts_with("cause: the deadline passed\n"), "{detail}");
    assert!(took < Duration::from_millis(300) + LATE, "{took:?}");
    well(&host);
}

#[test]
fn a_guest_that_loops_is_stopped_at_its_deadline() {
    stopped(
        "",
        "(func $predict (param i32 i32) (result i32) (loop $l (br $l)) unreachable)",
    );
}

#[test]
fn a_guest_that_loops_passes_the_gate_of_its_thread_until_it_is_stopped() {
    let host = Host::new();
    let body = "(func $predict (param i32 i32) (result i32) (loop $l (br $l)) unreachable)";
    let guest = host.open(&fixtures::component("", body));
    let thread = std::thread::Builder::new().stack_size(maquette_sandbox::STACK_BYTES);
    let call = move || {
        let passed = Rc::new(Cell::new(0));
        let at_gate = Rc::clone(&passed);
        maquette_tensor::gate::wait_at(Box::new(move |stops| {
            // As a gate that stays shut.
            let began = Instant::now();
            while !stops() {
                std::thread::sleep(EPOCH_TICK);
            }
            at_gate.set(at_gate.get() + 1);
            began.elapsed()
        }));
        let failure = guest.call(Call::default()).result.unwrap_err();
        (failure.code, passed.get())
    };
    let (code, passed) = thread.spawn(call).unwrap().join().unwrap();
    assert_eq!(
        (code, passed),
        (Code::Timeout, 2),
        "it waited once, for all of its time, and once more before its sandbox was taken down"
    );
    well(&host);
}

#[test]
fn an_allocator_that_loops_is_stopped_at_the_deadline() {
    // The host asks the guest for memory to pass the input in; this guest never gives it.
    stopped(
        "",
        "(func $realloc (param i32 i32 i32 i32) (result i32) (loop $l (br $l)) unreachable)",
    );
}

#[test]
fn a_post_return_that_loops_is_stopped_at_the_deadline() {
    stopped(
        "",
        r#"(func (export "cabi_post_maquette:model/predictor@0.1.0#predict") (param i32) (loop $l (br $l)))"#,
    );
}

#[test]
fn bulk_fills_and_copies_in_a_loop_are_stopped() {
    for op in [
        "(memory.fill (i32.const 65536) (i32.const 7) (i32.const 8388608))",
        "(memory.copy (i32.const 65536) (i32.const 131072) (i32.const 8388608))",
    ] {
        stopped(
            "",
            &format!(
                "(func $predict (param i32 i32) (result i32)
          (drop (memory.grow (i32.const 160))) (loop $l {op} (br $l)) unreachable)"
            ),
        );
    }
}

#[test]
fn an_instruction_over_much_memory_is_looked_at_in_the_middle() {
    for op in [
        "(memory.fill (i32.const 262144) (i32.const 7) (i32.const 250000000))",
        "(memory.copy (i32.const 262144) (i32.const 251000000) (i32.const 250000000))",
    ] {
        let host = Host::new();
        let body = format!(
            "(func $predict (param $p i32) (param $n i32) (result i32)
               (drop (memory.grow (i32.const 8000))) {op} (call $ok (local.get $p) (local.get $n)))"
        );
        let wide = Limits {
            timeout_ms: 60_000,
            memory_bytes: 1 << 30,
            ..limits()
        };
        let parts = host.parts(&fixtures::component("", &body), wide);
        let (guest, _) = host.try_open(&parts).unwrap();
        let thread = std::thread::Builder::new().stack_size(maquette_sandbox::STACK_BYTES);
        let passes = move || {
            let passed = Rc::new(Cell::new(0));
            let at_gate = Rc::clone(&passed);
            maquette_tensor::gate::wait_at(Box::new(move |_| {
                at_gate.set(at_gate.get() + 1);
                Duration::ZERO
            }));
            let call = Call {
                input: "{}".to_owned(),
                ..Call::default()
            };
            guest.call(call).result.map(|_| passed.get())
        };
        // It takes ten ticks and more; the last look is when the sandbox is taken down.
        let passed = thread.spawn(passes).unwrap().join().unwrap().unwrap();
        assert!(passed > 3, "{op}: {passed}");
        well(&host);
    }
}

#[test]
fn a_fill_or_copy_beyond_the_memory_is_told_by_its_name_and_place() {
    for name in ["memory.fill", "memory.copy"] {
        let body = format!(
            "(func $reaches_out (param $from i32)
               ({name} (local.get $from) (i32.const 0) (i32.const 2000000)))
             (func $predict (param i32 i32) (result i32) (call $reaches_out (i32.const 0)) unreachable)"
        );
        let host = Host::new();
        let (failure, _) = predict(&host, "", &body);
        let detail =
            format!("cause: wasm trap: out of bounds memory access\n  0: {name}\n  1: reaches_out\n  2: predict\n");
        assert_eq!(
            told(&failure),
            (
                Code::Internal,
                "the model stopped: wasm trap: out of bounds memory access",
                Some(&*detail)
            )
        );
    }
}

#[test]
fn an_input_that_blows_up_a_pattern_is_stopped_and_others_are_served() {
    // What matching `(x|x)*` backwards does: each character doubles the work.
    let body = "(func $match (param $left i32) (result i32)
        (if (result i32) (local.get $left)
          (then (i32.or (call $match (i32.sub (local.get $left) (i32.const 1)))
                        (call $match (i32.sub (local.get $left) (i32.const 1)))))
          (else (i32.const 1))))
      (func $predict (param $p i32) (param $n i32) (result i32)
        (drop (call $match (local.get $n))) (call $ok (local.get $p) (local.get $n)))";
    let host = Host::new();
    let guest = host.open(&fixtures::component("", body));
    assert_eq!(call(&guest, "[1]").result.unwrap().json, "[1]");
    let failure = call(&guest, &format!("{:?}", "x".repeat(60))).result.unwrap_err();
    assert_eq!(
        (failure.code, failure.message.as_str(), failure.broke),
        (Code::Timeout, "`predict` did not end within 300 ms", false)
    );
    let detail = failure.detail.unwrap();
    assert!(
        detail.starts_with("cause: the deadline passed\n  0: match\n  1: match\n"),
        "{detail}"
    );
    assert_eq!(call(&guest, "[1]").result.unwrap().json, "[1]");
    well(&host);
}

#[test]
fn a_guest_that_calls_the_host_forever_is_stopped() {
    // Each call is short; the drip of them never ends.
    stopped(
        r#"(import "maquette:model/run@0.1.0" "seed" (func $seed (result i64)))"#,
        "(func $predict (param i32 i32) (result i32) (loop $l (drop (call $seed)) (br $l)) unreachable)",
    );
}

/// Sleeps for an hour.
const SLEEP: &str = r#"
  (import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $after (param i64) (result i32)))
  (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;

#[test]
fn a_sleeping_guest_ends_with_its_deadline() {
    stopped(
        SLEEP,
        "(func $predict (param $p i32) (param $n i32) (result i32)
           (call $block (call $after (i64.const 3600000000000))) (loop $l (br $l)) unreachable)",
    );
}

#[test]
fn a_poll_on_nothing_ends_the_sandbox() {
    let imports = r#"(import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))"#;
    let body = "(func $predict (param i32 i32) (result i32) (call $poll (i32.const 0) (i32.const 0) (i32.const 5000)) unreachable)";
    let (failure, _) = predict(&Host::new(), imports, body);
    let detail = "cause: empty poll list\n  0: function 0\n  1: predict\n";
    assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail)));
}

#[test]
fn a_guest_that_floods_sleeps_is_ended() {
    let body =
        "(func $predict (param i32 i32) (result i32) (loop $l (drop (call $after (i64.const 1))) (br $l)) unreachable)";
    let (failure, _) = predict(&Host::new(), SLEEP, body);
    let detail = "cause: resource table has no free keys\n  0: predict\n";
    assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail)));
}

#[test]
fn a_load_that_loops_is_refused() {
    let body = "(func $load (result i32) (loop $l (br $l)) unreachable)";
    let error = refused(&Host::new(), &fixtures::component("", body));
    assert_eq!(error.message, "`load` failed: `load` did not end within 300 ms");
    assert_eq!(error.detail.unwrap(), "cause: the deadline passed\n  0: load\n");
}

#[test]
fn a_start_function_that_loops_is_refused() {
    let error = refused(
        &Host::new(),
        &fixtures::component("", "(func $s (loop $l (br $l))) (start $s)"),
    );
    assert_eq!(error.message, "`start` failed: `start` did not end within 300 ms");
    assert_eq!(error.detail.unwrap(), "cause: the deadline passed\n  0: s\n");
}

#[test]
fn a_recursion_through_the_host_is_stopped() {
    // The host allocates the name of the environment in the guest, whose allocator asks the host again.
    let imports = r#"(import "maquette:model/weights@0.1.0" "tensors" (func $tensors (param i32 i32 i32)))"#;
    let body = "(func $realloc (param i32 i32 i32 i32) (result i32)
        (call $tensors (i32.const 0) (i32.const 1) (i32.const 5000)) (i32.const 8192))
      (func $predict (param i32 i32) (result i32) unreachable)";
    let (failure, _) = predict(&Host::new(), imports, body);
    assert_eq!(
        told(&failure),
        (
            Code::Internal,
            "the model stopped: wasm trap: cannot leave component instance",
            Some("cause: wasm trap: cannot leave component instance\n  0: function 0\n  1: realloc\n")
        )
    );
}

#[test]
fn a_call_that_was_given_less_time_is_told_how_much_it_had() {
    let host = Host::new();
    let body = "(func $predict (param i32 i32) (result i32) (loop $l (br $l)) unreachable)";
    let guest = host.open(&fixtures::component("", body));
    for (given, had) in [(40, 40), (9000, 300)] {
        let call = Call {
            input: "{}".into(),
            timeout: Some(Duration::from_millis(given)),
            ..Call::default()
        };
        let failure = call_with(&guest, call).result.unwrap_err();
        let message = format!("`predict` did not end within {had} ms");
        assert_eq!((failure.code, failure.message), (Code::Timeout, message));
    }
    well(&host);
}

#[test]
fn a_guest_that_breaks_when_it_is_told_that_its_caller_left_is_a_cancelled_call() {
    // The first item cancels the call; the second is refused.
    let imports = r#"(import "maquette:model/run@0.1.0" "emit" (func $emit (param i32 i32 i32)))"#;
    let error = "(i32.store8 (i32.const 32) (i32.const 1)) (i32.store8 (i32.const 36) (i32.const 7)) (i32.const 32)";
    let host = Host::new();
    for end in ["unreachable", error] {
        let body = format!(
            r#"(func $predict (param i32 i32) (result i32)
            (call $emit (i32.const 4096) (i32.const 1) (i32.const 5000))
            (call $emit (i32.const 4096) (i32.const 1) (i32.const 5000))
            {end})
          (data (i32.const 4096) "7")"#
        );
        let guest = host.open(&fixtures::component(imports, &body));
        let cancel = Cancel::default();
        let remote = cancel.clone();
        let call = Call {
            input: "{}".into(),
            cancel,
            events: Some(Box::new(move |_| remote.cancel())),
            ..Call::default()
        };
        let failure = call_with(&guest, call).result.unwrap_err();
        assert_eq!(
            (failure.code, failure.message.as_str(), failure.broke),
            (Code::Cancelled, "the call was cancelled", false),
            "{end}"
        );
    }
    well(&host);
}

/// Cancels a call that would go on for a minute, and looks how soon it ends.
fn cancelled(imports: &str, body: &str) {
    let host = Host::new();
    let slow = Limits {
        timeout_ms: 60_000,
        ..limits()
    };
    let (guest, _) = host
        .try_open(&host.parts(&fixtures::component(imports, body), slow))
        .unwrap();
    let cancel = Cancel::default();
    let remote = cancel.clone();
    let canceller = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        remote.cancel();
        Instant::now()
    });
    let call = Call {
        input: "{}".into(),
        cancel,
        ..Call::default()
    };
    let failure = call_with(&guest, call).result.unwrap_err();
    assert!(canceller.join().unwrap().elapsed() < LATE);
    assert_eq!(
        told(&failure),
        (
            Code::Cancelled,
            "the call was cancelled",
            Some("cause: the call was cancelled\n  0: predict\n")
        )
    );
    well(&host);
}

#[test]
fn a_cancelled_call_stops_within_a_tick_or_so() {
    let body = "(func $predict (param i32 i32) (result i32) (loop $l (br $l)) unreachable)";
    cancelled("", body);
}

#[test]
fn a_guest_that_sleeps_is_cancelled_all_the_same() {
    let body = "(func $predict (param i32 i32) (result i32)
        (call $block (call $after (i64.const 3600000000000))) (loop $l (br $l)) unreachable)";
    cancelled(SLEEP, body);
}

#[test]
fn a_guest_that_recurses_without_end_is_stopped() {
    let body = "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))
      (func $predict (param i32 i32) (result i32) (call $deep))";
    let (failure, _) = predict(&Host::new(), "", body);
    let frames: String = (0..20).map(|i| format!("  {i}: deep\n")).collect();
    let detail = format!("cause: wasm trap: call stack exhausted\n{frames}");
    assert_eq!(
        told(&failure),
        (
            Code::Quota,
            "the model recursed too deeply: its stack is 1 MiB",
            Some(detail.as_str())
        )
    );
}

//! Guests that want the tensor device for themselves.

use std::time::Duration;

use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, Cancel, Code, Limits};

use crate::common::Host;
use crate::common::hostile::{TENSORS, ended};
use crate::{patient, predict};

/// Room for the largest op of these tests, and time for it.
const WIDE: Limits = Limits {
    timeout_ms: 60_000,
    memory_bytes: 64 << 20,
    tensor_bytes: 2 << 30,
    output_bytes: 64 << 10,
    file_bytes: 64 << 10,
    log_bytes: 4 << 10,
};

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
          (if (i32.load8_u (i32.const 5000)) (then) (else (call $drop (i32.load (i32.const 5004)))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $l {until}))
        (call $ok (local.get $p) (local.get $n)))
      (data (i32.const 4096) "7") (data (i32.const 4400) "add/1")"#
        )
    };
    let host = Host::new();
    let outcome = patient(&host, &imports, &ops("(i32.lt_u (local.get $i) (i32.const 10000))"));
    assert_eq!(outcome.result.unwrap().json, "{}");
    assert_eq!((outcome.report.ops, outcome.report.tensor_bytes), (10_000, 2));
    let (failure, report) = predict(&host, &imports, &ops("(i32.const 1)"));
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Timeout, "`predict` did not end within 300 ms")
    );
    let detail = failure.detail.unwrap();
    assert!(detail.starts_with("cause: the deadline passed\n"), "{detail}");
    assert!(report.ops > 0 && report.tensor_bytes == 2, "{report:?}");
}

/// A guest that multiplies `[16384, 256]` by `[256, 16384]`, of the same 16 MiB: 137 GFLOP into a gibibyte, a second or more. Then it
/// ends in some way.
fn multiplying(end: &str) -> Vec<u8> {
    let guest = r#"(func $predict (param $p i32) (param $n i32) (result i32)
        (drop (memory.grow (i32.const 300)))
        (call $upload (i32.const 0) (i32.const 4096) (i32.const 2) (i32.const 131072) (i32.const 16777216) (i32.const 5000))
        (i32.store (i32.const 4300) (i32.load (i32.const 5004)))
        (call $upload (i32.const 0) (i32.const 4104) (i32.const 2) (i32.const 131072) (i32.const 16777216) (i32.const 5000))
        (i32.store (i32.const 4304) (i32.load (i32.const 5004)))
        (call $resolve (i32.const 4400) (i32.const 8) (i32.const 5000))
        (call $apply (i32.load (i32.const 5004)) (i32.const 4300) (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 5000))
        END)
      (data (i32.const 4096) "\00\40\00\00\00\01\00\00\00\01\00\00\00\40\00\00") (data (i32.const 4400) "matmul/1")
      (data (i32.const 4420) "out of luck")"#;
    fixtures::component(&format!("{TENSORS}{OPS}"), &guest.replace("END", end))
}

fn input() -> Call {
    Call {
        input: "{}".into(),
        ..Call::default()
    }
}

/// Ways to end after an op was left, and what the contributor is told of each.
const ENDS: [(&str, &str); 4] = [
    // Too late, whatever it returns: the guest is stopped when it goes on.
    ("(loop $l (br $l)) unreachable", "cause: the deadline passed\n"),
    (
        "unreachable",
        "cause: wasm trap: wasm `unreachable` instruction executed\n  0: predict\n",
    ),
    (
        "(i32.div_u (i32.const 1) (i32.const 0))",
        "cause: wasm trap: integer divide by zero\n  0: predict\n",
    ),
    // An error of its own, `internal`, with some text.
    (
        "(i32.store8 (i32.const 32) (i32.const 1)) (i32.store8 (i32.const 36) (i32.const 7))
         (i32.store (i32.const 40) (i32.const 4420)) (i32.store (i32.const 44) (i32.const 11)) (i32.const 32)",
        "out of luck",
    ),
];

#[test]
fn an_op_that_takes_long_is_left_at_the_deadline_and_the_caller_is_told_so_whatever_the_guest_does_then() {
    let host = Host::new();
    for (end, detail) in ENDS {
        let wasm = multiplying(end);
        // On a machine that is loaded the first of these may be over before the op begins.
        let begun = [200, 1000, 5000].into_iter().any(|timeout_ms| {
            let brief = Limits { timeout_ms, ..WIDE };
            let guest = host.try_open(&host.parts(&wasm, brief)).unwrap().0;
            let outcome = ended(&host, &guest, input());
            // It was left, and did not end.
            assert_eq!(outcome.report.ops, 0, "{:?}", outcome.report);
            let begun = outcome.report.tensor_bytes > 1 << 30;
            let failure = outcome.result.unwrap_err();
            let message = format!("`predict` did not end within {timeout_ms} ms");
            assert_eq!((failure.code, failure.message), (Code::Timeout, message), "{end}");
            assert!(!failure.broke, "{end}");
            // If leaving took longer than a tick, the guest does not even get its refusal.
            let told = failure.detail.unwrap();
            assert!(
                told.starts_with(detail) || told.starts_with("cause: the deadline passed\n"),
                "{end}: {told}"
            );
            begun
        });
        assert!(begun, "the op did not begin");
    }
}

#[test]
fn an_op_that_is_left_because_the_caller_left_is_a_cancelled_call_whatever_the_guest_does_then() {
    let host = Host::new();
    for (end, _) in ENDS {
        let guest = host.try_open(&host.parts(&multiplying(end), WIDE)).unwrap().0;
        let cancel = Cancel::default();
        let remote = cancel.clone();
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            remote.cancel();
        });
        let outcome = ended(&host, &guest, Call { cancel, ..input() });
        assert_eq!(outcome.report.ops, 0, "{:?}", outcome.report);
        let failure = outcome.result.unwrap_err();
        assert_eq!(
            (failure.code, failure.message.as_str(), failure.broke),
            (Code::Cancelled, "the call was cancelled", false),
            "{end}"
        );
    }
}

//! Guests that return, print or log what they should not.

use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, Code, Event, LogLevel};

use crate::common::{Host, call, limits};
use crate::{RULE, ended, passed_on, patient, predict, refused, survives, told, well};

#[test]
fn an_output_that_is_not_json_or_too_large_is_refused() {
    let host = Host::new();
    let (failure, _) = predict(
        &host,
        "",
        r#"
      (func $predict (param i32 i32) (result i32) (call $ok (i32.const 4096) (i32.const 3))) (data (i32.const 4096) "{a}")"#,
    );
    assert_eq!(
        told(&failure),
        (
            Code::Internal,
            "the model returned something that is not JSON: key must be a string at line 1 column 2",
            None
        )
    );
    let (failure, _) = predict(
        &host,
        "",
        "
      (func $predict (param i32 i32) (result i32) (call $ok (call $alloc (i32.const 70000)) (i32.const 70000)))",
    );
    assert_eq!(
        told(&failure),
        (Code::Quota, "the output takes 70000 bytes; the limit is 65536", None)
    );
}

#[test]
fn an_output_beyond_the_guests_memory_ends_the_sandbox_and_nothing_else() {
    let (failure, _) = predict(
        &Host::new(),
        "",
        "(func $predict (param i32 i32) (result i32) (call $ok (i32.const 4096) (i32.const -1)))",
    );
    let detail = "cause: string pointer/length out of bounds of memory\n";
    assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail)));
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
    let (json, report) = survives(&host, imports, body);
    assert_eq!(json, "{}");
    assert_eq!(
        (report.logs.len(), report.dropped_log_bytes),
        (128, (10_000 - 128) * 16)
    );
}

#[test]
fn a_trap_is_short_for_the_caller_and_whole_for_the_contributor() {
    let body = "(func $faulty (result i32) unreachable)
      (func $predict (param i32 i32) (result i32) (call $faulty))";
    let (failure, _) = predict(&Host::new(), "", body);
    let detail = "cause: wasm trap: wasm `unreachable` instruction executed\n  0: faulty\n  1: predict\n";
    assert_eq!(told(&failure), (Code::Internal, "the model panicked", Some(detail)));
}

/// What is left of a guest's answer, taken from address 4096 on.
fn returning(text: &str) -> (Code, String) {
    let body = format!(
        r#"(func $predict (param i32 i32) (result i32) (call $ok (i32.const 4096) (i32.const {}))) (data (i32.const 4096) "{}")"#,
        text.len(),
        text.bytes().map(|b| format!("\\{b:02x}")).collect::<String>()
    );
    let (failure, _) = predict(&Host::new(), "", &body);
    assert_eq!(failure.detail, None);
    (failure.code, failure.message)
}

#[test]
fn not_a_number_and_deep_json_are_errors() {
    let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
    for (text, why) in [
        ("NaN", "expected value at line 1 column 1"),
        ("[Infinity]", "expected value at line 1 column 2"),
        ("\"\\ud800\"", "unexpected end of hex escape at line 1 column 8"),
        ("1e999", "number out of range at line 1 column 5"),
        ("{\"a\":1,}", "trailing comma at line 1 column 8"),
        ("", "EOF while parsing a value at line 1 column 0"),
        (
            "\"\n\"",
            "control character (\\u0000-\\u001F) found while parsing a string at line 2 column 0",
        ),
        (&deep, "recursion limit exceeded at line 1 column 128"),
    ] {
        let message = format!("the model returned something that is not JSON: {why}");
        assert_eq!(returning(text), (Code::Internal, message));
    }
}

#[test]
fn an_output_that_is_not_utf8_ends_the_sandbox() {
    let body = r#"(func $predict (param i32 i32) (result i32) (call $ok (i32.const 4096) (i32.const 4))) (data (i32.const 4096) "\22\ff\fe\22")"#;
    let (failure, _) = predict(&Host::new(), "", body);
    let detail = "cause: invalid utf-8 sequence of 1 bytes from index 1\n";
    assert_eq!(told(&failure), (Code::Internal, RULE, Some(detail)));
}

/// Standard output and standard error.
const STREAMS: &str = r#"
  (import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
  (import "wasi:cli/stderr@0.2.0" "get-stderr" (func $stderr (result i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-and-flush" (func $write (param i32 i32 i32 i32)))
  (import "wasi:io/streams@0.2.0" "[method]output-stream.blocking-write-zeroes-and-flush" (func $zeroes (param i32 i64 i32)))"#;

#[test]
fn a_flood_of_standard_output_is_dropped_and_counted() {
    // 64 MiB, 4 KiB at a time, each a line.
    let body = r#"(func $predict (param $p i32) (param $n i32) (result i32) (local $out i32) (local $i i32)
        (local.set $out (call $stdout))
        (memory.fill (i32.const 8192) (i32.const 120) (i32.const 4095))
        (i32.store8 (i32.const 12287) (i32.const 10))
        (loop $l
          (call $write (local.get $out) (i32.const 8192) (i32.const 4096) (i32.const 5000))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $l (i32.lt_u (local.get $i) (i32.const 16384))))
        (call $ok (local.get $p) (local.get $n)))"#;
    let outcome = patient(&Host::new(), STREAMS, body);
    assert_eq!(outcome.result.unwrap().json, "{}");
    let kept: usize = outcome.report.logs.iter().map(|line| line.message.len()).sum();
    assert!(kept as u64 <= limits().log_bytes);
    assert!(outcome.report.dropped_log_bytes >= (64 << 20) - (16_384 + 8192));
}

#[test]
fn a_forged_log_line_or_an_escape_sequence_is_tamed_wherever_it_comes_from() {
    let text = r"\1b[2Jok\0dfaked\0a[ERROR] forged\00\c2\9b31m";
    let imports = format!(r#"{STREAMS} (import "maquette:model/run@0.1.0" "log" (func $log (param i32 i32 i32)))"#);
    let body = format!(
        r#"(func $predict (param $p i32) (param $n i32) (result i32)
        (call $write (call $stderr) (i32.const 4096) (i32.const 32) (i32.const 5000))
        (call $zeroes (call $stdout) (i64.const 8) (i32.const 5000))
        (call $log (i32.const 1) (i32.const 4096) (i32.const 32))
        unreachable)
      (data (i32.const 4096) "{text}")"#
    );
    let (failure, report) = predict(&Host::new(), &imports, &body);
    // Of standard error a line that was begun comes when the guest ends.
    let logs: Vec<_> = report
        .logs
        .iter()
        .map(|line| (line.level, line.message.as_str()))
        .collect();
    let (first, second) = ("\u{fffd}[2Jok\u{fffd}faked", "[ERROR] forged\u{fffd}\u{fffd}31");
    assert_eq!(
        logs,
        [
            (LogLevel::Warn, first),
            (LogLevel::Info, first),
            (LogLevel::Info, second),
            (LogLevel::Info, &"\u{fffd}".repeat(8)),
            (LogLevel::Warn, second),
        ]
    );
    assert_eq!(
        (failure.code, failure.message.as_str()),
        (Code::Internal, "the model panicked")
    );
    assert_eq!(
        failure.detail.unwrap(),
        format!("{first}\n{second}\ncause: wasm trap: wasm `unreachable` instruction executed\n  0: predict\n")
    );
}

#[test]
fn a_name_in_a_backtrace_is_cut_and_cannot_drive_a_terminal() {
    let name = format!("\u{1b}[2J\n0: forged{}", "x".repeat(100_000));
    let body = format!(
        r#"(func $faulty (@name "{}") (result i32) unreachable)
      (func $predict (param i32 i32) (result i32) (call $faulty))"#,
        name.replace('\u{1b}', "\\1b").replace('\n', "\\0a")
    );
    let (failure, _) = predict(&Host::new(), "", &body);
    let shown = format!(
        "\u{fffd}[2J\u{fffd}0: forged{}",
        "x".repeat(512 - name.find('x').unwrap())
    );
    let detail = format!("cause: wasm trap: wasm `unreachable` instruction executed\n  0: {shown}\n  1: predict\n");
    assert_eq!(
        told(&failure),
        (Code::Internal, "the model panicked", Some(detail.as_str()))
    );
}

/// Writes an error whose message is a megabyte of line breaks at 32.
const MESSAGE: &str = "(memory.fill (i32.const 65536) (i32.const 10) (i32.const 1048576))
    (i32.store8 (i32.const 32) (i32.const 1)) (i32.store8 (i32.const 36) (i32.const 0))
    (i32.store (i32.const 40) (i32.const 65536)) (i32.store (i32.const 44) (i32.const 1048576))";

#[test]
fn an_error_message_is_cut_and_tamed_in_predict_and_in_load() {
    let grow = "(drop (memory.grow (i32.const 17)))";
    // The result of `predict` has its error at the same offsets as that of `load` from 4 on.
    let body = format!("(func $predict (param i32 i32) (result i32) {grow} {MESSAGE} (i32.const 32))");
    let (failure, _) = predict(&Host::new(), "", &body);
    let cut = "\u{fffd}".repeat(4096);
    assert_eq!(told(&failure), (Code::InvalidInput, cut.as_str(), None));
    let body = format!("(func $load (result i32) {grow} {MESSAGE} (i32.const 32))");
    let error = refused(&Host::new(), &fixtures::component("", &body));
    assert_eq!((error.message, error.detail), (format!("`load` failed: {cut}"), None));
}

const RUN: &str = r#"(import "maquette:model/run@0.1.0" "emit" (func $emit (param i32 i32 i32)))
  (import "maquette:model/run@0.1.0" "metric" (func $metric (param i32 i32 f64)))"#;

#[test]
fn streamed_items_are_bounded_in_bytes_and_in_number() {
    // Emits "7" until refused, then returns the error.
    let body = r#"(func $predict (param $p i32) (param $n i32) (result i32)
        (loop $l
          (call $emit (i32.const 4096) (i32.const 1) (i32.const 5000))
          (br_if $l (i32.eqz (i32.load8_u (i32.const 5000)))))
        (i32.const 5000))
      (data (i32.const 4096) "7")"#;
    let host = Host::new();
    let wasm = fixtures::component(RUN, body);
    for (output_bytes, expected, message) in [
        (1000, 1000, "the output would take 1001 bytes; the limit is 1000"),
        (1 << 20, 65_536, "an output may have at most 65536 streamed items"),
    ] {
        let wide = maquette_sandbox::Limits {
            output_bytes,
            timeout_ms: 20_000,
            ..limits()
        };
        let (guest, _) = host.try_open(&host.parts(&wasm, wide)).unwrap();
        let told = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = std::sync::Arc::clone(&told);
        let events = Box::new(move |event| {
            if matches!(event, Event::Item(_)) {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let call = Call {
            input: "{}".into(),
            events: Some(events),
            ..Call::default()
        };
        let outcome = ended(&host, &guest, call);
        assert_eq!(told.load(std::sync::atomic::Ordering::Relaxed), expected);
        assert_eq!(passed_on(outcome), (Code::Quota, message.to_owned()));
    }
}

#[test]
fn a_flood_of_metrics_keeps_32_and_notes_the_rest_within_the_log() {
    let body = r#"(func $predict (param $p i32) (param $n i32) (result i32) (local $i i32)
        (loop $l
          (i32.store8 (i32.const 4097) (i32.add (i32.const 97) (i32.rem_u (local.get $i) (i32.const 26))))
          (i32.store8 (i32.const 4098) (i32.add (i32.const 97) (i32.div_u (local.get $i) (i32.const 26))))
          (call $metric (i32.const 4096) (i32.const 3) (f64.const 1))
          (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 600))))
        (call $metric (i32.const 4096) (i32.const 3) (f64.const nan))
        (call $ok (local.get $p) (local.get $n)))
      (data (i32.const 4096) "m")"#;
    let (json, report) = survives(&Host::new(), RUN, body);
    assert_eq!(json, "{}");
    assert_eq!(report.metrics.len(), 32);
    assert_eq!(
        report.logs[0].message,
        "metric `mgb` ignored: names are 1 to 64 of a-z, 0-9 and _, values finite, at most 32 names a call"
    );
    let kept: usize = report.logs.iter().map(|line| line.message.len()).sum();
    assert!(kept as u64 <= limits().log_bytes && report.dropped_log_bytes > 0);
}

#[test]
fn a_description_that_is_long_or_forged_is_refused() {
    const SDK: &str = "`describe`: the sdk must be at most 128 bytes of text in one line, such as `rust/0.1.0`";
    // Three strings at 0: input, output, sdk. All three the whole memory; then an sdk of 4 KiB; then one with a line break.
    let whole = r"\00\00\00\00\00\00\02\00";
    let long = "x".repeat(4096);
    let cases = [
        (
            format!(r#"(data (i32.const 0) "{}")"#, whole.repeat(3)),
            "`describe` returned more than 262144 bytes",
        ),
        (
            format!(r#"(data (i32.const 16) "\00\00\01\00\00\10\00\00") (data (i32.const 65536) "{long}")"#),
            SDK,
        ),
        (
            r#"(data (i32.const 16) "\00\00\01\00\03\00\00\00") (data (i32.const 65536) "a\0ab")"#.to_owned(),
            SDK,
        ),
        (
            r#"(data (i32.const 64) "[[[[")"#.to_owned(),
            "`describe`: the input schema is not JSON: expected value at line 1 column 5",
        ),
    ];
    for (data, expected) in cases {
        let error = refused(&Host::new(), &fixtures::component("", &data));
        assert_eq!((error.message.as_str(), error.detail), (expected, None));
    }
}

#[test]
fn an_unfinished_line_of_one_call_is_in_no_later_call() {
    // Prints what it is given without a line break, and traps.
    let body = "(func $predict (param $p i32) (param $n i32) (result i32)
        (call $write (call $stdout) (local.get $p) (local.get $n) (i32.const 5000))
        (call $write (call $stderr) (local.get $p) (local.get $n) (i32.const 5000)) unreachable)";
    let host = Host::new();
    let guest = host.open(&fixtures::component(STREAMS, body));
    for input in ["[\"secret\"]", "[]", "[\"other\"]"] {
        let outcome = call(&guest, input);
        let lines: Vec<_> = outcome.report.logs.iter().map(|line| line.message.as_str()).collect();
        assert_eq!(lines, [input, input]);
        let failure = outcome.result.unwrap_err();
        let detail = format!("{input}\ncause: wasm trap: wasm `unreachable` instruction executed\n  0: predict\n");
        assert_eq!(
            told(&failure),
            (Code::Internal, "the model panicked", Some(detail.as_str()))
        );
    }
    well(&host);
}

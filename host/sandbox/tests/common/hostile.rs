//! Guests that end soon and badly, and what being well afterwards means.

use std::sync::Arc;

use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, Code, Failure, Guest, Outcome, Report};

use super::{Host, call, call_with};

/// Uploads, reads and drops of tensors.
pub const TENSORS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "[static]tensor.from-bytes" (func $upload (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[method]tensor.read" (func $read (param i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))"#;

/// The host serves a good guest, and nothing of the calls before is alive or charged.
pub fn well(host: &Host) {
    let good = host.open(&fixtures::echo());
    let Outcome { result, report } = call(&good, "[1]");
    assert_eq!(result.unwrap().json, "[1]", "a good guest is served");
    let its_own = Report {
        guest_memory_bytes: 2 << 16,
        output_bytes: 3,
        total_us: report.total_us,
        instantiate_us: report.instantiate_us,
        cpu_us: report.cpu_us,
        ..Report::default()
    };
    assert_eq!(report, its_own, "every budget of a call begins at zero");
    let pool = host.engine.wasmtime().pooling_allocator_metrics().unwrap();
    let live = (
        pool.component_instances(),
        pool.core_instances(),
        pool.memories(),
        pool.tables(),
    );
    assert_eq!(live, (0, 0, 0, 0), "sandboxes are gone");
    assert_eq!(host.runtime.charged(), 0, "bytes of tensors and caches are given back");
    for program in host.runtime.programs().all() {
        assert_eq!(Arc::strong_count(&program), 2, "the cache alone holds a program");
    }
}

/// A call's end, when the whole of its sandbox is gone: its handles, files and log too.
pub fn ended(host: &Host, guest: &Guest, call: Call) -> Outcome {
    let holders = Arc::strong_count(&host.runtime);
    let outcome = call_with(guest, call);
    assert_eq!(
        Arc::strong_count(&host.runtime),
        holders,
        "a sandbox is gone with its call"
    );
    well(host);
    outcome
}

/// What the caller is told of a failure, and what the contributor is.
pub fn told(failure: &Failure) -> (Code, &str, Option<&str>) {
    (failure.code, &failure.message, failure.detail.as_deref())
}

/// What the caller is told of a guest that gave up.
pub const PANICKED: &str = "the model panicked";

/// What the caller is told of a guest that called the host in a way that no guest may.
pub const RULE: &str = "the model stopped: it broke a rule of the host";

/// What a call returned, or what the caller was told of its failure.
pub type End = Result<String, (Code, String)>;

/// A call on this thread.
pub fn run(guest: &Guest) -> End {
    let call = Call {
        input: "{}".into(),
        ..Call::default()
    };
    guest
        .call(call)
        .result
        .map(|output| output.json)
        .map_err(|failure| (failure.code, failure.message))
}

/// Guests that end soon and badly, each in its own way, and how.
pub fn hostile(host: &Host) -> Vec<(Guest, End)> {
    let held = r#"(call $upload (i32.const 3) (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const 65536) (i32.const 5000))"#;
    let size = r#"(data (i32.const 4096) "\00\00\01\00")"#;
    let predict = |body: &str| format!("(func $predict (param $p i32) (param $n i32) (result i32) {body})");
    let log = r#"(import "maquette:model/run@0.1.0" "log" (func $log (param i32 i32 i32)))"#;
    let stdout = r#"(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))"#;
    let cases = [
        ("", predict("unreachable"), Err((Code::Internal, PANICKED))),
        (
            "",
            "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))".to_owned() + &predict("(call $deep)"),
            Err((Code::Quota, "the model recursed too deeply: its stack is 1 MiB")),
        ),
        (
            "",
            predict("(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable"),
            Err((
                Code::Quota,
                "the model ran out of memory: it wanted 16908288 bytes, its limit is 16777216",
            )),
        ),
        (
            "",
            predict("(call $ok (i32.const 4096) (i32.const -1))"),
            Err((Code::Internal, RULE)),
        ),
        (
            "",
            predict("(call $ok (i32.const 4096) (i32.const 3))") + r#"(data (i32.const 4096) "{a}")"#,
            Err((
                Code::Internal,
                "the model returned something that is not JSON: key must be a string at line 1 column 2",
            )),
        ),
        (
            "",
            predict("(call $ok (call $alloc (i32.const 70000)) (i32.const 70000))"),
            Err((Code::Quota, "the output takes 70000 bytes; the limit is 65536")),
        ),
        (
            "",
            predict("(i32.div_u (i32.const 1) (i32.const 0))"),
            Err((Code::Internal, "the model stopped: wasm trap: integer divide by zero")),
        ),
        (
            "",
            predict("(i32.load (i32.const -4))"),
            Err((
                Code::Internal,
                "the model stopped: wasm trap: out of bounds memory access",
            )),
        ),
        (
            TENSORS,
            predict(&format!("{held} {held} unreachable")) + size,
            Err((Code::Internal, PANICKED)),
        ),
        (
            TENSORS,
            predict("(call $read (i32.const 77) (i32.const 5000)) unreachable"),
            Err((Code::Internal, RULE)),
        ),
        (
            TENSORS,
            predict(&format!("{held} (call $ok (local.get $p) (local.get $n))")) + size,
            Ok("{}"),
        ),
        (
            log,
            predict(
                "(loop $l (call $log (i32.const 1) (i32.const 8192) (i32.const 4096)) (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 40)))) unreachable",
            ),
            Err((Code::Internal, PANICKED)),
        ),
        (
            stdout,
            predict(
                "(loop $l (drop (call $stdout)) (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 99)))) unreachable",
            ),
            Err((Code::Internal, PANICKED)),
        ),
    ];
    let open = cases.map(|(imports, body, end)| {
        let end = end
            .map(str::to_owned)
            .map_err(|(code, message)| (code, message.to_owned()));
        (host.open(&fixtures::component(imports, &body)), end)
    });
    open.into()
}

//! Guests that end soon and badly, and what being well afterwards means.

use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, Code, Guest};

use super::{Host, call};

/// Uploads, reads and drops of tensors.
pub const TENSORS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "[static]tensor.from-bytes" (func $upload (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[method]tensor.read" (func $read (param i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))"#;

/// The host serves a good guest, and nothing of the calls before is alive or charged.
pub fn well(host: &Host) {
    let good = host.open(&fixtures::echo());
    assert_eq!(call(&good, "[1]").result.unwrap().json, "[1]", "a good guest is served");
    let pool = host.engine.wasmtime().pooling_allocator_metrics().unwrap();
    let live = (
        pool.component_instances(),
        pool.core_instances(),
        pool.memories(),
        pool.tables(),
    );
    assert_eq!(live, (0, 0, 0, 0), "sandboxes are gone");
    assert_eq!(host.runtime.charged(), 0, "bytes are given back");
}

/// A call on this thread: what it returned, or the code of its failure.
pub fn run(guest: &Guest) -> Result<String, Code> {
    let call = Call {
        input: "{}".into(),
        ..Call::default()
    };
    guest
        .call(call)
        .result
        .map(|output| output.json)
        .map_err(|failure| failure.code)
}

/// Guests that end soon and badly, each in its own way, and how.
pub fn hostile(host: &Host) -> Vec<(Guest, Result<&'static str, Code>)> {
    let held = r#"(call $upload (i32.const 3) (i32.const 4096) (i32.const 1) (i32.const 0) (i32.const 65536) (i32.const 5000))"#;
    let size = r#"(data (i32.const 4096) "\00\00\01\00")"#;
    let predict = |body: &str| format!("(func $predict (param $p i32) (param $n i32) (result i32) {body})");
    let log = r#"(import "maquette:model/run@0.1.0" "log" (func $log (param i32 i32 i32)))"#;
    let stdout = r#"(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))"#;
    let cases = [
        ("", predict("unreachable"), Err(Code::Internal)),
        (
            "",
            "(func $deep (result i32) (i32.add (call $deep) (i32.const 1)))".to_owned() + &predict("(call $deep)"),
            Err(Code::Quota),
        ),
        (
            "",
            predict("(loop $l (br_if $l (i32.ge_s (memory.grow (i32.const 16)) (i32.const 0)))) unreachable"),
            Err(Code::Quota),
        ),
        (
            "",
            predict("(call $ok (i32.const 4096) (i32.const -1))"),
            Err(Code::Internal),
        ),
        (
            "",
            predict("(call $ok (i32.const 4096) (i32.const 3))") + r#"(data (i32.const 4096) "{a}")"#,
            Err(Code::Internal),
        ),
        (
            "",
            predict("(call $ok (call $alloc (i32.const 70000)) (i32.const 70000))"),
            Err(Code::Quota),
        ),
        (
            "",
            predict("(i32.div_u (i32.const 1) (i32.const 0))"),
            Err(Code::Internal),
        ),
        ("", predict("(i32.load (i32.const -4))"), Err(Code::Internal)),
        (
            TENSORS,
            predict(&format!("{held} {held} unreachable")) + size,
            Err(Code::Internal),
        ),
        (
            TENSORS,
            predict("(call $read (i32.const 77) (i32.const 5000)) unreachable"),
            Err(Code::Internal),
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
            Err(Code::Internal),
        ),
        (
            stdout,
            predict(
                "(loop $l (drop (call $stdout)) (br_if $l (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const 99)))) unreachable",
            ),
            Err(Code::Internal),
        ),
    ];
    let open = cases.map(|(imports, body, end)| (host.open(&fixtures::component(imports, &body)), end));
    open.into()
}

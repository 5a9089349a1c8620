//! Components made to waste the compiler's time and memory, or that are none: each is refused at its step within the child's
//! limits, nothing of it is visible, and the next publish is served.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Host, actor};
use maquette_fixtures::component;
use serde_json::json;

/// What is told of a file that does not begin as WebAssembly does.
const NO_WASM: &str = "this is not WebAssembly: send the .wasm file that `maquette build` makes, neither packed nor compiled for a machine \
                       (.cwasm)";

/// What is told of a component that takes too much of the compiler: whichever limit it meets first.
const TOO_MUCH: [&str; 2] = [
    "compiling and loading it ended the compiler; most likely it needs more than 1024 MiB of memory",
    "compiling and loading it took more than 4 s of processor time",
];

#[test]
fn bombs_are_refused_within_limits_and_the_next_publish_is_served() {
    // Processor time, so that a busy machine refuses nothing else.
    let host = Host::with(|c| {
        c.prepare.cpu_seconds = 4;
        c.prepare.memory_bytes = 1 << 30;
        c.prepare.timeout = Duration::from_secs(120);
    });
    let long = |text: &str, times: usize| {
        component(
            "",
            &format!(
                "(func $bomb (param $x i64) (result i64) {} (local.get $x))",
                text.repeat(times)
            ),
        )
    };
    let mut section = actor();
    section.extend([0, 0x80, 0x80, 0x80, 0x32, 1, b'x']);
    section.resize(section.len() + (100 << 20) - 2, 0xa5);
    let too_large = format!(
        "component.size: a size of {} bytes is not between 1 and 67108864",
        section.len()
    );
    let bombs = [
        (
            "compiled code",
            b"\x7fELF\x02\x01\x01\0nothing that was compiled elsewhere is run".to_vec(),
            NO_WASM,
        ),
        (
            "a core module",
            b"\0asm\x01\0\0\0".to_vec(),
            "this is a core module, not a component: build it for the target wasm32-wasip2, as `maquette build` does",
        ),
        (
            "what is cut off",
            actor()[..1000].to_vec(),
            "the component is not valid: unexpected end-of-file at byte 0x387; it is damaged or cut off: build it and send it again",
        ),
        ("a custom section of 100 MiB", section, &too_large),
        (
            "many functions",
            component("", &"(func (result i32) (i32.const 7))".repeat(400_000)),
            TOO_MUCH[0],
        ),
        (
            "a function without end",
            long(
                "(local.set $x (i64.div_u (i64.rotl (local.get $x) (local.get $x)) (i64.const 3)))",
                300_000,
            ),
            TOO_MUCH[0],
        ),
    ];
    for (i, (name, wasm, says)) in bombs.iter().enumerate() {
        let manifest = host.manifest("actor", &format!("1.0.{i}"), wasm);
        let reply = host.post("/v1/models/me/actor/versions", &json!({"manifest": manifest}));
        assert_eq!(reply.status, 422, "{name}: {reply:?}");
        let told = reply.json();
        let detail = told["detail"].as_str().unwrap();
        let step = if wasm.len() > 64 << 20 { "manifest" } else { "prepare" };
        assert_eq!(told["step"], step, "{name}: {told}");
        let detail = detail.strip_prefix(&format!("{step}: ")).unwrap();
        let met_first = TOO_MUCH.contains(says) && TOO_MUCH.contains(&detail);
        assert!(detail == *says || met_first, "{name}: {detail}");
        assert_eq!(host.get("/v1/models").json()["results"], json!([]), "{name}");
    }
    assert_eq!(host.publish("actor", "2.0.0", &actor(), &["latest"]).status, 201);
    assert_eq!(host.run(&json!({"do": "echo"})).status, 200);
}

//! Components made to waste the compiler's time and memory, or that are none: each is refused at its step within the child's
//! limits, nothing of it is visible, and the next publish is served.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Host, actor};
use maquette_fixtures::component;
use serde_json::json;

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
    let bombs = [
        (
            "compiled code",
            b"\x7fELF\x02\x01\x01\0nothing that was compiled elsewhere is run".to_vec(),
            "not a",
        ),
        ("a core module", b"\0asm\x01\0\0\0".to_vec(), "core module"),
        ("what is cut off", actor()[..1000].to_vec(), "not a valid component"),
        ("a custom section of 100 MiB", section, "not between 1 and 67108864"),
        (
            "many functions",
            component("", &"(func (result i32) (i32.const 7))".repeat(400_000)),
            "",
        ),
        (
            "a function without end",
            long(
                "(local.set $x (i64.div_u (i64.rotl (local.get $x) (local.get $x)) (i64.const 3)))",
                300_000,
            ),
            "",
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
        assert!(detail.contains(says) && detail.len() < 4096, "{name}: {detail}");
        println!("{name}: {detail}");
        assert_eq!(host.get("/v1/models").json()["results"], json!([]), "{name}");
    }
    assert_eq!(host.publish("actor", "2.0.0", &actor(), &["latest"]).status, 201);
    assert_eq!(host.run(&json!({"do": "echo"})).status, 200);
}

//! What versions leave behind in a real server that publishes, opens, calls and closes them.
//!
//! `MAQUETTE_VERSIONS` says how many; the server keeps far fewer open at once.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use serde_json::json;
use support::random::setting;
use support::serve::{self, Serve};

/// Versions that the server keeps open at once.
const OPEN: usize = 16;

/// What a version may leave for as long as it is published: its record, and its figures.
const EACH_KIB: u64 = 16;

/// What the server's own caches may still take when it has met its first versions, and what the allocator keeps of each thread's: it
/// settles within some rounds of openings, and stays there.
const SETTLING_KIB: u64 = 12 << 10;

/// How often every version is opened again; one that stayed open would take 56 KiB each time.
const ROUNDS: usize = 6;

/// A model that returns a number of its own.
fn model(number: usize) -> Vec<u8> {
    let body = format!(
        r#"(func $predict (param i32 i32) (result i32) (call $ok (i32.const 4096) (i32.const 4))) (data (i32.const 4096) "{number}")"#
    );
    maquette_fixtures::component("", &body)
}

#[test]
fn versions_that_were_published_called_and_closed_leave_memory_where_it_was() {
    let count = setting("MAQUETTE_VERSIONS", 80);
    assert!((3 * OPEN..9000).contains(&count), "MAQUETTE_VERSIONS is 48 to 8999");
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::start(&folder.path().join("data"), &["--open-versions", &OPEN.to_string()]);
    let mut client = serve.client();
    let mut call = |number: usize, id: &str| {
        let path = format!("/v1/models/me/many/versions/{id}/run");
        let reply = client.post(&path, &json!({})).unwrap();
        assert_eq!((reply.status, reply.text()), (200, number.to_string()));
    };
    let mut publisher = serve.client();
    let (mut ids, mut before) = (Vec::new(), 0);
    let seen = |when: String| println!("{when}: {} KiB resident", serve.memory_kib("VmRSS"));
    for i in 0..count {
        let (number, limits) = (1000 + i, json!({"timeout_ms": 10_000}));
        let id = serve::publish(&mut publisher, "many", &format!("1.0.{i}"), &model(number), &limits);
        call(number, &id);
        ids.push(id);
        if ids.len() == 2 * OPEN {
            before = serve.memory_kib("VmRSS");
        }
        if [2 * OPEN, 200, 500, 1000, count].contains(&ids.len()) {
            seen(format!("{} versions published and called", ids.len()));
        }
    }
    let published = serve.memory_kib("VmRSS");
    let (grown, allowed) = (published.saturating_sub(before), SETTLING_KIB + EACH_KIB * count as u64);
    assert!(
        grown <= allowed,
        "{count} versions left {grown} KiB; {allowed} were allowed"
    );
    // All but the last few were closed meanwhile: each is opened again, and closed by those after it.
    for _ in 0..ROUNDS {
        ids.iter().enumerate().for_each(|(i, id)| call(1000 + i, id));
    }
    seen(format!("all called again, {ROUNDS} x"));
    let grown = serve.memory_kib("VmRSS").saturating_sub(published);
    assert!(
        grown <= SETTLING_KIB,
        "{} openings left {grown} KiB; {SETTLING_KIB} were allowed",
        ROUNDS * count
    );
    let figures = serve.client().get("/metrics").unwrap().text();
    let open = format!("maquette_open_guests {OPEN}");
    assert!(figures.lines().any(|line| line == open), "{figures}");
}

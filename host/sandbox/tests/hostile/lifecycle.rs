//! Versions that fail without end, and what thousands of them leave behind.

use std::sync::atomic::{AtomicBool, Ordering};

use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, Code, Guest, STACK_BYTES};

use crate::common::{Host, call, limits};
use crate::{TENSORS, well};

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Runs work on a thread with the stack that guests need, as a server's lane does.
fn lane<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
        thread.spawn_scoped(scope, work).unwrap().join().unwrap()
    })
}

fn run(guest: &Guest) -> Result<String, Code> {
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
fn hostile(host: &Host) -> Vec<(Guest, Result<&'static str, Code>)> {
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

#[test]
fn ten_thousand_hostile_calls_leave_the_process_as_it_was() {
    let host = Host::new();
    let guests = hostile(&host);
    let (grown, most, before) = lane(|| {
        let (mut before, mut most) = (0, 0);
        for i in 0..10_500_u64 {
            if i == 500 {
                before = resident();
            }
            let (guest, end) = &guests[(i % guests.len() as u64) as usize];
            assert_eq!(run(guest).as_deref(), end.as_deref().map_err(|code| code), "call {i}");
            if i > 500 && i % 500 == 0 {
                most = most.max(resident());
            }
        }
        (resident().saturating_sub(before), most.saturating_sub(before), before)
    });
    eprintln!(
        "10,000 hostile calls of {} kinds: {} KiB resident before, {} KiB more after, {} KiB more at most",
        guests.len(),
        before >> 10,
        grown >> 10,
        most >> 10
    );
    assert!(grown <= 48 << 20, "grew by {grown} bytes");
    well(&host);
}

#[test]
fn a_thousand_versions_loaded_and_unloaded_return_their_memory() {
    let host = Host::new();
    let version = |i: u32| {
        let body = format!(
            r#"(func $predict (param i32 i32) (result i32) (call $ok (i32.const 4096) (i32.const 4))) (data (i32.const 4096) "{}")"#,
            1000 + i
        );
        let guest = host.open(&fixtures::component("", &body));
        assert_eq!(call(&guest, "{}").result.unwrap().json, (1000 + i).to_string());
        for file in std::fs::read_dir(host.folder.path().join("cache")).unwrap() {
            std::fs::remove_file(file.unwrap().path()).unwrap();
        }
    };
    (0..50).for_each(version);
    let before = resident();
    (50..1050).for_each(version);
    let grown = resident().saturating_sub(before);
    eprintln!(
        "1,000 versions prepared, opened, called and closed: {} KiB resident before, {} KiB more after",
        before >> 10,
        grown >> 10
    );
    assert!(grown <= 48 << 20, "grew by {grown} bytes");
    well(&host);
}

#[test]
fn a_version_that_traps_on_every_call_harms_no_neighbour() {
    let host = Host::new();
    let guests = hostile(&host);
    let good = host.open(&fixtures::echo());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let attackers: Vec<_> = (0..4)
            .map(|lane| {
                let (guests, over) = (&guests, &over);
                let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
                let work = move || {
                    let mut calls = lane;
                    while !over.load(Ordering::Relaxed) {
                        let (guest, end) = &guests[calls % guests.len()];
                        assert_eq!(run(guest).as_deref(), end.as_deref().map_err(|code| code));
                        calls += 1;
                    }
                    calls - lane
                };
                thread.spawn_scoped(scope, work).unwrap()
            })
            .collect();
        for i in 0..300 {
            assert_eq!(call(&good, &format!("[{i}]")).result.unwrap().json, format!("[{i}]"));
        }
        over.store(true, Ordering::Relaxed);
        for attacker in attackers {
            assert!(attacker.join().unwrap() > 0, "it did attack");
        }
    });
    assert!(
        limits().timeout_ms < 1000,
        "each good call above had a deadline of its own"
    );
    well(&host);
}

//! What ten thousand hostile calls and a thousand versions leave behind. A process of its own: other tests would be measured too.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::{Mutex, PoisonError};

use common::hostile::{hostile, run, well};
use common::{Host, call};
use maquette_fixtures as fixtures;
use maquette_sandbox::STACK_BYTES;

/// One measurement at a time.
static TURN: Mutex<()> = Mutex::new(());

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

#[test]
fn ten_thousand_hostile_calls_leave_the_process_as_it_was() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let host = Host::new();
    let guests = hostile(&host);
    let (grown, most, before) = lane(|| {
        let (mut before, mut most) = (0, 0);
        for i in 0..10_500_u64 {
            if i == 500 {
                before = resident();
            }
            let (guest, end) = &guests[(i % guests.len() as u64) as usize];
            assert_eq!(run(guest), *end, "call {i}");
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
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
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

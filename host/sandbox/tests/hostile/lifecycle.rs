//! Versions that fail without end beside one that does not.

use std::sync::atomic::{AtomicBool, Ordering};

use maquette_fixtures as fixtures;
use maquette_sandbox::STACK_BYTES;

use crate::common::hostile::{hostile, run, well};
use crate::common::{Host, call, limits};

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
                        assert_eq!(run(guest), *end);
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

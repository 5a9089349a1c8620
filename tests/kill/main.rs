//! What was acknowledged survives SIGKILL: a server is killed at random moments under load, again and again, and nothing that it
//! promised is lost, done twice, changed afterwards or billed otherwise than once.
//!
//! `MAQUETTE_KILLS` sets how often (200 takes some minutes), `MAQUETTE_SEED` plays the choices of a run again; the moments of the
//! machine itself cannot be played again.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod book;
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use book::Book;
use support::guests;
use support::random::{Random, seed, setting};
use support::serve::Serve;

/// Callers at once, each with the token of one of the owners.
const CALLERS: usize = 4;
const OWNERS: usize = 3;

/// Every so many rounds everything is let come to its end; in between, work is left over several kills.
const SETTLE: usize = 4;

#[test]
fn whatever_was_acknowledged_survives_sigkill_and_ends_once() {
    let kills = setting("MAQUETTE_KILLS", 12);
    let seed = seed();
    println!("MAQUETTE_SEED={seed} MAQUETTE_KILLS={kills}");
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let started = Instant::now();

    let args = ["--lanes", "2", "--queue", "200"];
    let mut serve = Serve::start(&data, &args);
    let version = serve.publish("worker", &guests::worker(), 20_000);
    let owners: Vec<String> = (0..OWNERS).map(|n| serve.owner(&format!("owner-{n}"))).collect();
    let book = Mutex::new(Book::new(owners, version));

    for round in 0..kills {
        let over = AtomicBool::new(false);
        let moment = Duration::from_millis(30 + random.below(700) as u64);
        let address = serve.address;
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (book, over) = (&book, &over);
                let random = Random::new(seed ^ ((round * CALLERS + caller) as u64 + 1) << 20);
                scope.spawn(move || load::call(address, caller, random, book, over));
            }
            std::thread::sleep(moment);
            serve.kill();
            over.store(true, Ordering::Relaxed);
        });
        serve = Serve::start(&data, &args);
        let mut book = book.lock().unwrap();
        book.everything_exists(serve.address, &mut random, round);
        if round % SETTLE == SETTLE - 1 {
            book.everything_ends(serve.address);
        }
    }
    let mut book = book.into_inner().unwrap();
    book.retries_find_what_they_made(serve.address);
    book.everything_ends(serve.address);
    book.nothing_runs_on(serve.address);
    let log = serve.log();
    serve.stop();
    assert!(!log.contains("panicked"), "{log}");
    let ledger = book::on_disk(&data.join("maquette.db"), &book);
    println!(
        "{kills} kills, {} acknowledged, {} rows, {} of them begun again ({} times at most), {} given up after too many starts; \
         {:.1} s; seed {seed}",
        book.acknowledged(),
        ledger.rows,
        ledger.begun_again,
        ledger.most_attempts - 1,
        ledger.given_up,
        started.elapsed().as_secs_f64(),
    );
}

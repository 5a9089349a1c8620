//! What was acknowledged survives SIGKILL: a server is killed (and now and then asked to stop) at random moments under load, again and again, and nothing that it
//! promised is lost, done twice, changed afterwards or billed otherwise than once.
//!
//! `MAQUETTE_KILLS` sets how often (200 takes some minutes), `MAQUETTE_SEED` plays the choices of a run again; the moments of the
//! machine itself cannot be played again.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod book;
mod hook;
mod load;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufReader, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use book::Book;
use serde_json::{Value, json};
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

    let hook = hook::Hook::start();
    let allowed = hook.address.to_string();
    let args = ["--lanes", "2", "--queue", "200", "--allow-outbound", &allowed];
    let mut serve = Serve::start(&data, &args);
    let version = serve.publish("worker", &guests::worker(), 20_000);
    let owners: Vec<String> = (0..OWNERS).map(|n| serve.owner(&format!("owner-{n}"))).collect();
    let book = Mutex::new(Book::new(owners, version, hook.url()));

    // The last round ends without a kill: then nothing but the server itself can bring what has begun to its end.
    for round in 0..=kills {
        let over = AtomicBool::new(false);
        let last = round == kills;
        let moment = Duration::from_millis(if last { 1500 } else { 30 + random.below(700) as u64 });
        let address = serve.address;
        std::thread::scope(|scope| {
            for caller in 0..CALLERS {
                let (book, over) = (&book, &over);
                let random = Random::new(seed ^ ((round * CALLERS + caller) as u64 + 1) << 20);
                scope.spawn(move || load::call(address, caller, random, book, over));
            }
            std::thread::sleep(moment);
            if !last {
                // Now and then it is asked to stop, and the same has to hold.
                if random.below(5) == 0 {
                    serve.stop();
                } else {
                    serve.kill();
                }
                serve = Serve::start(&data, &args);
            }
            over.store(true, Ordering::Relaxed);
        });
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
    for token in &book.owners {
        hook.is_told_everything(serve.address, token);
    }
    let log = serve.log();
    serve.stop();
    assert!(!log.contains("panicked"), "{log}");
    let ledger = book::on_disk(&data.join("maquette.db"), &book);
    let told = hook.heard_every_end(&data.join("maquette.db"));
    assert!(told > 0, "somebody wanted to be told");
    println!(
        "{kills} kills, {told} ends told, {} acknowledged, {} rows, {} of them begun again ({} times at most), {} given up after too many starts; \
         {:.1} s; seed {seed}",
        book.acknowledged(),
        ledger.rows,
        ledger.begun_again,
        ledger.most_attempts - 1,
        ledger.given_up,
        started.elapsed().as_secs_f64(),
    );
}

/// Kills a server and starts it again until something is as it should be.
fn kill_until(serve: &mut Serve, data: &std::path::Path, mut done: impl FnMut(&mut Serve) -> bool) {
    for _ in 0..30 {
        serve.kill();
        *serve = Serve::start(data, &["--lanes", "1"]);
        if done(serve) {
            return;
        }
    }
    panic!("it never was: {}", serve.log());
}

fn get(serve: &Serve, id: &str) -> Value {
    let reply = serve.client().get(&format!("/v1/predictions/{id}")).unwrap();
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

fn make(serve: &Serve, version: &str, what: &str) -> Value {
    let body = json!({"version": version, "input": {"a": what}});
    serve.client().post("/v1/predictions", &body).unwrap().json()
}

#[test]
fn what_ends_the_server_is_given_up_and_what_waits_behind_it_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serve = Serve::start(&data, &["--lanes", "1"]);
    let version = serve.publish("worker", &guests::worker(), 600_000);
    let suspect = make(&serve, &version, "l000")["id"].as_str().unwrap().to_owned();
    let behind = make(&serve, &version, "e000-behind")["id"].as_str().unwrap().to_owned();
    kill_until(&mut serve, &data, |serve| {
        // It runs, or it is over.
        while get(serve, &suspect)["status"] == "starting" {
            std::thread::sleep(Duration::from_millis(2));
        }
        // And the other stands behind it, or is over.
        while get(serve, &behind)["queue_position"].is_null() && get(serve, &behind)["completed_at"].is_null() {
            std::thread::sleep(Duration::from_millis(2));
        }
        get(serve, &suspect)["status"] == "failed"
    });
    let error = get(&serve, &suspect)["error"].as_str().unwrap().to_owned();
    assert!(error.contains("ended 3 times while it ran"), "{error}");
    while get(&serve, &behind)["completed_at"].is_null() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let behind = get(&serve, &behind);
    assert_eq!(behind["status"], "succeeded", "it only waited: {behind}");
}

#[test]
fn what_is_begun_again_can_be_stopped_and_streamed_from_the_first_moment() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serve = Serve::start(&data, &["--lanes", "1"]);
    let version = serve.publish("worker", &guests::worker(), 600_000);
    let made: Vec<Value> = (0..12).map(|n| make(&serve, &version, &format!("l000-{n}"))).collect();
    serve.kill();
    let serve = Serve::start(&data, &["--lanes", "1"]);
    let streams: Vec<_> = made
        .iter()
        .map(|made| {
            let url = made["urls"]["stream"]
                .as_str()
                .unwrap()
                .strip_prefix("http://test.local")
                .unwrap();
            let mut stream = support::http::connect(serve.address).unwrap();
            stream
                .write_all(&support::http::request("", "GET", url, &[], b""))
                .unwrap();
            BufReader::new(stream)
        })
        .collect();
    // Each would run for ten minutes.
    for made in made.iter().rev() {
        let cancel = format!("/v1/predictions/{}/cancel", made["id"].as_str().unwrap());
        let reply = serve.client().post(&cancel, &json!({})).unwrap();
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    let until = Instant::now() + Duration::from_secs(40);
    for mut stream in streams {
        support::http::receive_head(&mut stream).unwrap();
        let mut told = String::new();
        while !told.contains(r#"data: {"reason":"canceled"}"#) {
            assert!(Instant::now() < until, "this stream never ends: {told}");
            let piece = support::http::chunk(&mut stream).unwrap();
            told.push_str(std::str::from_utf8(&piece.expect("the end is told")).unwrap());
        }
    }
    for made in &made {
        assert_eq!(get(&serve, made["id"].as_str().unwrap())["status"], "canceled");
    }
}

//! Ten times more than can be served: as much is served as ever, whoever is refused is told when to come back and at once, memory
//! stays as it is, and a caller who asks for little gets it beside one who asks for everything.
//!
//! The guest spends its time on the clock, not on the processor, so that clients and server on the same few cores do not decide
//! what is measured. `MAQUETTE_SECONDS` makes it longer.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use support::flood::{Done, Flood, Pace, at_permille};
use support::guests;
use support::http;
use support::random::setting;
use support::serve::Serve;

/// Calls that may wait here.
const QUEUE: &str = "64";

/// What growth of the server's memory under overload is still called flat, in KiB.
const GROWTH: u64 = 192 << 10;

/// Each measures, so that one waits for the other.
static ALONE: Mutex<()> = Mutex::new(());

struct Host {
    serve: Serve,
    version: String,
    owners: Vec<String>,
    _folder: tempfile::TempDir,
}

fn host(owners: usize) -> Host {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::start(&folder.path().join("data"), &["--lanes", "1", "--queue", QUEUE]);
    let version = serve.publish("worker", &guests::worker(), 20_000);
    let owners = (0..owners).map(|n| serve.owner(&format!("owner-{n}"))).collect();
    Host {
        serve,
        version,
        owners,
        _folder: folder,
    }
}

impl Host {
    /// A call of five milliseconds that waits for its end.
    fn call(&self, owner: usize, which: usize) -> Vec<u8> {
        let body = json!({"version": self.version, "input": {"a": format!("e005-{which}")}}).to_string();
        let wait = [("prefer", "wait=30")];
        http::request(&self.owners[owner], "POST", "/v1/predictions", &wait, body.as_bytes())
    }

    /// As many calls as can be served, a second: the server is kept busy and no more.
    fn most(&self, time: Duration) -> f64 {
        let done = Flood {
            address: self.serve.address,
            connections: 6,
            pace: Pace::Closed,
            time,
            request: &|which| self.call(which % self.owners.len(), which),
        }
        .run();
        assert!(
            done.iter().all(served),
            "nobody is refused: {:?}",
            done.iter().find(|done| !served(done))
        );
        goodput(&done, time)
    }
}

fn served(done: &Done) -> bool {
    let right = || {
        let body: Value = serde_json::from_slice(&done.body).unwrap();
        body["status"] == "succeeded" && body["output"]["a"] == format!("e005-{}", done.which)
    };
    done.status == 201 && right()
}

fn goodput(done: &[Done], time: Duration) -> f64 {
    let count = done.iter().filter(|done| done.at <= time && served(done)).count();
    count as f64 / time.as_secs_f64()
}

/// Everybody who was not served was refused, with a time to come back.
fn check_refusals(done: &[Done]) -> Vec<Duration> {
    let mut took = Vec::new();
    for done in done.iter().filter(|done| !served(done)) {
        assert!(
            matches!(done.status, 429 | 503) && done.retry_after,
            "{} {}",
            done.status,
            String::from_utf8_lossy(&done.body)
        );
        took.push(done.took);
    }
    took.sort_unstable();
    took
}

#[test]
fn ten_times_more_than_can_be_served_takes_nothing_from_what_is_served() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let time = Duration::from_secs(setting("MAQUETTE_SECONDS", 3) as u64);
    let host = host(4);
    host.most(Duration::from_millis(300));
    let before = host.most(time);
    let memory = host.serve.memory_kib("VmRSS");
    let rate = 10.0 * before;
    let done = Flood {
        address: host.serve.address,
        connections: 300,
        pace: Pace::Open(rate),
        time,
        request: &|which| host.call(which % host.owners.len(), which),
    }
    .run();
    let peak = host.serve.memory_kib("VmHWM");
    let after = host.most(time);
    let rested = host.serve.memory_kib("VmRSS");
    let (most, overloaded) = ((before + after) / 2.0, goodput(&done, time));
    let refused = check_refusals(&done);
    let mut late: Vec<_> = done.iter().map(|done| done.late).collect();
    late.sort_unstable();
    println!(
        "at most {most:.0}/s ({before:.0} before, {after:.0} after); {:.0}/s offered ({:.1} times as many): {overloaded:.0}/s served \
         = {:.1} %; {} refused, p50 {:.1?}, p99 {:.1?}, p99.9 {:.1?} (this thread itself is late by p50 {:.1?}, p99 {:.1?}); memory {memory} KiB before, {peak} at most, {rested} after",
        done.len() as f64 / time.as_secs_f64(),
        done.len() as f64 / time.as_secs_f64() / most,
        100.0 * overloaded / most,
        refused.len(),
        at_permille(&refused, 500),
        at_permille(&refused, 990),
        at_permille(&refused, 999),
        at_permille(&late, 500),
        at_permille(&late, 990),
    );
    assert!(!refused.is_empty(), "it was no overload");
    assert!(overloaded >= 0.6 * most, "{overloaded} of {most}");
    assert!(peak <= memory + GROWTH, "{memory} KiB before, {peak} KiB at most");
    let mut client = host.serve.client();
    assert_eq!(client.get("/healthz").unwrap().status, 200);
}

#[test]
fn who_asks_for_little_gets_it_beside_who_asks_for_everything() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let time = Duration::from_secs(setting("MAQUETTE_SECONDS", 3) as u64);
    let host = host(2);
    let most = host.most(Duration::from_secs(1));
    // One in twenty-one is the second owner's: a quarter of what can be served, twenty times that is the first's.
    let owner = |which: usize| usize::from(which.is_multiple_of(21));
    let rate = most / 4.0 * 21.0;
    let done = Flood {
        address: host.serve.address,
        connections: 300,
        pace: Pace::Open(rate),
        time,
        request: &|which| host.call(owner(which), which),
    }
    .run();
    check_refusals(&done);
    let of = |wanted: usize| {
        let all = done.iter().filter(|done| owner(done.which) == wanted);
        let (served, asked) = (all.clone().filter(|done| served(done)).count(), all.count());
        (served, asked)
    };
    let ((heavy, heavy_asked), (light, light_asked)) = (of(0), of(1));
    println!("{heavy} of {heavy_asked} of who asks for much, {light} of {light_asked} of who asks for little");
    assert!(heavy < heavy_asked, "it was no overload");
    assert!(light * 100 >= light_asked * 95, "{light} of {light_asked}");
}

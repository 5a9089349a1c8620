//! A good plugin beside hostile ones: while guests of five other owners loop, allocate, recurse, trap and flood, its calls take what
//! they take alone.
//!
//! It asks for less than its share of the processors, as whoever is to be left in peace must. What is asserted bears a busy machine;
//! the figure is printed. `MAQUETTE_SECONDS` makes the measurement longer.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::flood::{Done, Flood, Pace, at_permille};
use support::guests::{good, hostile};
use support::http::{self, Client};
use support::random::setting;
use support::serve::Serve;

/// How long a hostile guest may run, in milliseconds.
const HOSTILE_MS: u64 = 300;

/// Owners of hostile guests, and how many calls each has in flight.
const OWNERS: usize = 5;
const EACH: usize = 4;

/// From the end of a good call to the next: it asks for a fifth of one processor.
const PAUSE: Duration = Duration::from_millis(20);

/// The good calls of a measurement, each as long as it took, in order of length.
fn calls(client: &mut Client, path: &str, time: Duration) -> Vec<Duration> {
    let (started, mut took) = (Instant::now(), Vec::new());
    while started.elapsed() < time {
        let sent = Instant::now();
        let reply = client.post(path, &json!({"a": "good"})).unwrap();
        took.push(sent.elapsed());
        assert_eq!(
            (reply.status, reply.json()),
            (200, json!({"a": "good"})),
            "{}",
            reply.text()
        );
        std::thread::sleep(PAUSE);
    }
    took.sort_unstable();
    took
}

#[test]
fn a_good_plugin_is_served_beside_all_hostile_ones_as_if_alone() {
    let time = Duration::from_secs(setting("MAQUETTE_SECONDS", 4) as u64);
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::start(&folder.path().join("data"), &[]);
    serve.publish("good", &good(), 20_000);
    let guests = hostile();
    for (name, component, _) in &guests {
        serve.publish(name, component, HOSTILE_MS);
    }
    let mut client = Client::new(serve.address, &serve.owner("good"));
    let owners: Vec<_> = (0..OWNERS).map(|n| serve.owner(&format!("hostile-{n}"))).collect();
    let path = "/v1/models/me/good/run";
    // Connections take kinds by turns, so that each owner plays every part.
    let request = |which: usize| {
        let (name, _, _) = &guests[which % guests.len()];
        let owner = &owners[which / guests.len() % OWNERS];
        http::request(owner, "POST", &format!("/v1/models/me/{name}/run"), &[], b"{}")
    };
    let attack = |time| {
        // Its clients would be elsewhere: here they share the processors with what is measured, and give way to it.
        rustix::process::setpriority_process(None, 19).unwrap();
        Flood {
            address: serve.address,
            connections: OWNERS * EACH,
            pace: Pace::Closed,
            time,
            request: &request,
        }
        .run()
    };
    calls(&mut client, path, Duration::from_millis(500));
    let before = calls(&mut client, path, time);
    let (lead, begin) = (Duration::from_millis(500), Barrier::new(2));
    let (beside, done) = std::thread::scope(|scope| {
        let attacker = scope.spawn(|| {
            begin.wait();
            attack(time + 2 * lead)
        });
        begin.wait();
        std::thread::sleep(lead);
        (calls(&mut client, path, time), attacker.join().unwrap())
    });
    let after = calls(&mut client, path, time);
    let mut alone = [before, after].concat();
    alone.sort_unstable();
    let p = |took: &[Duration], permille| at_permille(took, permille).as_secs_f64() * 1e3;
    println!(
        "a good call alone: p50 {:.2} ms, p99 {:.2} ms ({} calls); beside {} hostile calls of {} kinds: p50 {:.2} ms ({:.2} x), p99 {:.2} ms ({:.2} x; {} calls)",
        p(&alone, 500),
        p(&alone, 990),
        alone.len(),
        done.len(),
        guests.len(),
        p(&beside, 500),
        p(&beside, 500) / p(&alone, 500),
        p(&beside, 990),
        p(&beside, 990) / p(&alone, 990),
        beside.len(),
    );
    for (i, (name, _, codes)) in guests.iter().enumerate() {
        let of: Vec<_> = done.iter().filter(|done| done.which % guests.len() == i).collect();
        let ended: Vec<_> = of.iter().filter(|done| done.status != 429).collect();
        println!("  {name}: {} calls ended, {} refused", ended.len(), of.len() - ended.len());
        assert!(!ended.is_empty(), "{name} never ran");
        for done in ended {
            check(name, codes, done);
        }
    }
    // Half of a hostile call's time: whoever waits for one of them to end waits longer.
    assert!(
        p(&beside, 500) < p(&alone, 500) + HOSTILE_MS as f64 / 2.0,
        "good calls wait for hostile ones"
    );
}

/// A hostile call ended as it has to.
fn check(name: &str, codes: &[&str], done: &Done) {
    let body: Value = serde_json::from_slice(&done.body).unwrap_or_default();
    let code = match done.status {
        200 => "ok",
        _ => body["code"].as_str().unwrap_or_default(),
    };
    assert!(
        codes.contains(&code),
        "{name}: {} {code} {}",
        done.status,
        String::from_utf8_lossy(&done.body[..done.body.len().min(400)])
    );
}

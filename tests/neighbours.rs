//! A good plugin beside hostile ones: while guests of five other owners loop, allocate, recurse, trap and flood, its calls take what
//! they take alone.
//!
//! It asks for less than its share of the processors, as whoever is to be left in peace must. What is asserted is that it does not
//! wait for a hostile call to end, which holds on a busy machine too; how long its calls take beside what they take alone is printed,
//! and says something only where nobody else works. `MAQUETTE_SECONDS` makes the measurement longer; `MAQUETTE_KINDS` names the kinds of
//! hostile guests, else all are there.
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
const HOSTILE_MS: u64 = 500;

/// Owners of hostile guests, and how many calls each has in flight.
const OWNERS: usize = 5;
const EACH: usize = 4;

/// From the end of a good call to the next: it asks for less than a sixth of a processor, even unoptimised.
const PAUSE: Duration = Duration::from_millis(60);

/// Good calls: how long each took, and how long it waited for a lane, in order of length.
#[derive(Default)]
struct Calls {
    took: Vec<Duration>,
    queued: Vec<Duration>,
}

impl Calls {
    fn sorted(mut self) -> Self {
        self.took.sort_unstable();
        self.queued.sort_unstable();
        self
    }
}

fn calls(client: &mut Client, path: &str, time: Duration) -> Calls {
    let (started, mut calls) = (Instant::now(), Calls::default());
    while started.elapsed() < time {
        let sent = Instant::now();
        let reply = client.post(path, &json!({"a": "good"})).unwrap();
        calls.took.push(sent.elapsed());
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json(), json!({"a": "good"}));
        let queued: f64 = reply.header("x-maquette-queue-ms").unwrap().parse().unwrap();
        calls.queued.push(Duration::from_secs_f64(queued / 1e3));
        std::thread::sleep(PAUSE);
    }
    calls.sorted()
}

#[test]
fn a_good_plugin_waits_for_no_hostile_call_beside_it() {
    let time = Duration::from_secs(setting("MAQUETTE_SECONDS", 4) as u64);
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::start(&folder.path().join("data"), &[]);
    serve.publish("good", &good(), 20_000);
    let mut guests = hostile();
    if let Ok(kinds) = std::env::var("MAQUETTE_KINDS") {
        guests.retain(|(name, ..)| kinds.split(',').any(|kind| kind == *name));
        assert!(!guests.is_empty(), "MAQUETTE_KINDS names no kind there is: {kinds}");
    }
    // Each owner has versions of its own: what breaks in the hands of several callers would be quarantined, and disturb nobody.
    for (name, component, _) in &guests {
        for n in 0..OWNERS {
            serve.publish(&format!("{name}-{n}"), component, HOSTILE_MS);
        }
    }
    // Its client would be elsewhere: here its replies find it at once, alone and beside others.
    maquette_server::prompt();
    let mut client = Client::new(serve.address, &serve.owner("good"));
    let owners: Vec<_> = (0..OWNERS).map(|n| serve.owner(&format!("hostile-{n}"))).collect();
    let path = "/v1/models/me/good/run";
    // Connections take kinds by turns, so that each owner plays every part.
    let request = |which: usize| {
        let (name, _, _) = &guests[which % guests.len()];
        let n = which / guests.len() % OWNERS;
        http::request(&owners[n], "POST", &format!("/v1/models/me/{name}-{n}/run"), &[], b"{}")
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
    let resident = serve.memory_kib("VmRSS");
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
    let alone = Calls {
        took: [before.took, after.took].concat(),
        queued: [before.queued, after.queued].concat(),
    }
    .sorted();
    let p = |took: &[Duration], permille| at_permille(took, permille).as_secs_f64() * 1e3;
    for permille in [500, 900, 990] {
        let (alone, beside) = (
            (p(&alone.took, permille), p(&alone.queued, permille)),
            (p(&beside.took, permille), p(&beside.queued, permille)),
        );
        println!(
            "p{}: {:.2} ms alone, {:.2} ms beside hostile calls: {:.2} x; of these {:.2} and {:.2} ms waiting for a lane",
            permille / 10,
            alone.0,
            beside.0,
            beside.0 / alone.0,
            alone.1,
            beside.1
        );
    }
    println!(
        "resident memory: {resident} KiB before, {} KiB at most, {} KiB after",
        serve.memory_kib("VmHWM"),
        serve.memory_kib("VmRSS")
    );
    println!(
        "{} good calls alone, {} beside {} hostile calls of {} kinds",
        alone.took.len(),
        beside.took.len(),
        done.len(),
        guests.len()
    );
    for (i, (name, _, codes)) in guests.iter().enumerate() {
        let of: Vec<_> = done.iter().filter(|done| done.which % guests.len() == i).collect();
        let ended: Vec<_> = of.iter().filter(|done| done.status != 429).collect();
        println!(
            "  {name}: {} calls ended, {} refused",
            ended.len(),
            of.len() - ended.len()
        );
        assert!(!ended.is_empty(), "{name} never ran");
        for done in ended {
            check(name, codes, done);
        }
    }
    // Without being let through, most would wait for much of a hostile call.
    let waits = at_permille(&beside.queued, 500);
    assert!(
        waits < Duration::from_millis(HOSTILE_MS / 4),
        "good calls wait for hostile ones: {waits:?}"
    );
}

/// A hostile call ended as it has to.
fn check(name: &str, codes: &[&str], done: &Done) {
    let body: Value = serde_json::from_slice(&done.body).unwrap_or_default();
    let code = match done.status {
        200 => "ok",
        _ => body["model_code"]
            .as_str()
            .or(body["code"].as_str())
            .unwrap_or_default(),
    };
    // Whoever ends badly every time is set aside after a while.
    assert!(
        codes.contains(&code) || code == "quarantined",
        "{name}: {} {code} {}",
        done.status,
        String::from_utf8_lossy(&done.body[..done.body.len().min(400)])
    );
}

//! All calls together hold no more than the machine has for them: who comes too late is told to come again, and nothing is lost.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use maquette_package::Digest;
use serde_json::{Value, json};
use support::guests;
use support::http::{Client, Reply};
use support::serve::Serve;

/// With two lanes ten calls can run at once, beside two publishes: each is sure of 2 MiB, 72 MiB are shared.
const ARGS: [&str; 4] = ["--memory-mb", "96", "--lanes", "2"];
const SHARED_MIB: u64 = 72;

/// What one owner holds. As much has to be left free, so that 42 MiB are too few for another who wants as much.
const HELD_MIB: u64 = 32;

const RUN: &str = "/v1/models/me/holder/run";

fn figure(client: &mut Client, name: &str) -> u64 {
    let figures = client.get("/metrics").unwrap().text();
    let line = figures.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().parse().unwrap()
}

/// Bytes that calls hold of what is shared.
fn held(admin: &mut Client) -> u64 {
    figure(admin, "maquette_shared_call_memory_bytes")
}

/// Waits until one that holds has all that it takes, its own 2 MiB aside: in tensors as much again as an op needs on its way.
fn wait_for(admin: &mut Client, holds: char) {
    let all = if holds == 't' { HELD_MIB + 2 } else { HELD_MIB - 2 };
    let begun = Instant::now();
    while held(admin) < all << 20 {
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "{holds} never held {all} MiB"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn call(client: &mut Client, what: char, mib: u64) -> Reply {
    client.post(RUN, &json!({"a": format!("{what}{mib:03}")})).unwrap()
}

/// What publishes the holder once more, with a case that takes [`HELD_MIB`]. Its blobs are sent.
fn cased(admin: &mut Client) -> Value {
    let input = json!({"a": format!("m{HELD_MIB:03}")});
    let case =
        json!({"name": "much", "description": "", "input": input, "output": input, "tolerance": 1e-5}).to_string();
    let component = guests::holder();
    let blob = |bytes: &[u8]| json!({"sha256": Digest::of(bytes).to_string(), "size": bytes.len()});
    let sent = format!("/v1/blobs/{}", Digest::of(case.as_bytes()));
    let sent = admin.send("PUT", &sent, &[], case.as_bytes()).unwrap();
    assert_eq!(sent.status, 201, "{sent:?}");
    let manifest = json!({
        "schema": 1, "name": "cased", "version": "1.0.0", "limits": {"timeout_ms": 60_000},
        "component": blob(&component), "cases": [blob(case.as_bytes())],
    });
    json!({"manifest": manifest, "aliases": ["latest"]})
}

#[test]
fn calls_that_want_more_than_there_is_are_told_to_come_again_and_what_was_held_is_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::start(&folder.path().join("data"), &ARGS);
    serve.publish("holder", &guests::holder(), 60_000);
    let mut admin = serve.client();
    assert_eq!(
        figure(&mut admin, "maquette_shared_call_memory_limit_bytes"),
        SHARED_MIB << 20
    );
    let (mut a, mut b) = (Client::new(serve.address, &serve.owner("a")), serve.client());
    // Linear memories and tensors alike.
    for (holds, wants) in [('h', 'm'), ('t', 'u')] {
        std::thread::scope(|scope| {
            let first = scope.spawn(|| call(&mut a, holds, HELD_MIB));
            wait_for(&mut admin, holds);
            let refused = call(&mut b, wants, HELD_MIB);
            assert_eq!(refused.status, 503, "{holds} {wants} {refused:?}");
            let body = refused.json();
            assert_eq!(body["code"], "busy");
            let detail = body["detail"].as_str().unwrap();
            assert!(
                detail.contains("memory is full") && detail.contains("try again"),
                "{detail}"
            );
            assert!(refused.header("retry-after").is_some(), "{refused:?}");
            // However often: this guest traps when it gets no memory, which is not held against it.
            for _ in 0..6 {
                assert_eq!(call(&mut b, wants, HELD_MIB).json()["code"], "busy");
            }
            // Who wants little gets it all the same.
            for small in ['m', 'u'] {
                assert_eq!(call(&mut b, small, 8).status, 200);
            }
            let first = first.join().unwrap();
            assert_eq!(first.status, 200, "{first:?}");
        });
        assert_eq!(held(&mut admin), 0, "what a call holds is given back with its end");
        assert_eq!(call(&mut b, wants, HELD_MIB).status, 200, "there is room again");
    }
    // A prediction says it as well.
    std::thread::scope(|scope| {
        let first = scope.spawn(|| call(&mut a, 'h', HELD_MIB));
        wait_for(&mut admin, 'h');
        let body = json!({"version": "me/holder", "input": {"a": format!("u{HELD_MIB:03}")}}).to_string();
        let reply = b
            .send("POST", "/v1/predictions", &[("prefer", "wait")], body.as_bytes())
            .unwrap();
        let ended = reply.json();
        assert_eq!(ended["status"], "failed", "{ended}");
        assert!(ended["error"].as_str().unwrap().contains("memory is full"), "{ended}");
        assert_eq!(first.join().unwrap().status, 200);
    });
    // So does a publish whose case finds no room: nothing is wrong with the version.
    let cased = cased(&mut admin);
    let publish = |admin: &mut Client| admin.post("/v1/models/me/cased/versions", &cased).unwrap();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| call(&mut a, 'h', HELD_MIB));
        wait_for(&mut admin, 'h');
        let refused = publish(&mut admin);
        assert_eq!(refused.status, 503, "{refused:?}");
        let body = refused.json();
        assert_eq!((&body["code"], &body["step"]), (&json!("busy"), &json!("cases")));
        assert!(body["detail"].as_str().unwrap().contains("memory is full"), "{body}");
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
        assert_eq!(first.join().unwrap().status, 200);
    });
    assert_eq!(publish(&mut admin).status, 201, "there is room again");
    let version = admin.get("/v1/models/me/holder/versions/latest").unwrap().json();
    assert_eq!(version["quarantine"], Value::Null);
    // What could not be had of an empty machine either is the call's own fault.
    assert_eq!(
        version["grant"]["memory_bytes"]["why"], "present",
        "{}",
        version["grant"]
    );
    let too_much = call(&mut b, 'm', 40);
    assert_eq!((too_much.status, &too_much.json()["code"]), (422, &json!("quota")));
    assert_eq!(held(&mut admin), 0);
}

//! A version that traps every time is not called any more, says why, and comes back when told to; nobody else's does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write as _;

use common::{Host, Reply, actor, config, connect, head};
use serde_json::{Value, json};

/// What a stranger may do.
const CALLER: &[&str] = &["read", "predict"];

fn call(host: &Host, token: &str, what: &str) -> Reply {
    let body = json!({"do": what}).to_string();
    let json = [("content-type", "application/json")];
    host.send_as(token, "POST", "/v1/models/me/actor/run", &json, body.as_bytes())
}

/// Calls that must trap, and be said to.
fn trap(host: &Host, token: &str, times: usize) {
    for _ in 0..times {
        let reply = call(host, token, "trap");
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (500, &json!("model-failed")),
            "{reply:?}"
        );
    }
}

fn quarantine(host: &Host, id: &str) -> Value {
    host.get(&format!("/v1/models/me/actor/versions/{id}")).json()["quarantine"].clone()
}

#[test]
fn a_version_that_traps_every_time_is_quarantined_with_a_visible_reason_and_comes_back_when_told_to() {
    let host = Host::start();
    let id = host.actor();
    assert_eq!(host.publish("other", "1.0.0", &actor(), &["latest"]).status, 201);
    let deployment = json!({"name": "d", "model": "me/actor", "version": id, "hardware": "cpu",
        "min_instances": 0, "max_instances": 1});
    assert_eq!(host.post("/v1/deployments", &deployment).status, 200);
    trap(&host, &host.token, 5);

    // It is refused at once, everywhere, and says why and what to do.
    let input = json!({"input": {"do": "echo"}});
    let of_version = json!({"version": id, "input": {"do": "echo"}});
    for reply in [
        call(&host, &host.token, "echo"),
        host.post(
            &format!("/v1/models/me/actor/versions/{id}/run"),
            &json!({"do": "echo"}),
        ),
        host.post("/v1/models/me/actor/predictions", &input),
        host.post("/v1/predictions", &of_version),
        host.post("/v1/deployments/admin/d/predictions", &input),
    ] {
        assert_eq!(reply.status, 503, "{reply:?}");
        let said = reply.problem();
        for part in ["5 calls in a row", "the model panicked", "/release", id.as_str()] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let body = reply.json();
        assert_eq!(body["code"], "quarantined");
        assert_eq!(body["quarantine"]["reason"], "the model panicked");
        assert_eq!(reply.header("retry-after"), None, "time does not bring it back");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    // Whoever looks at it sees it.
    assert_eq!(quarantine(&host, &id)["faults"], 5);
    let listed = host.get("/v1/models/me/actor/versions").json();
    assert_eq!(listed["results"][0]["quarantine"]["reason"], "the model panicked");
    let figures = host.get("/metrics").text();
    assert!(
        figures.lines().any(|line| line == "maquette_quarantined_versions 1"),
        "{figures}"
    );
    let refused = format!(r#"maquette_calls_total{{model="me/actor",version="{id}",code="quarantined"}} 5"#);
    assert!(figures.lines().any(|line| line == refused), "{figures}");
    // The same component under another name is another's version.
    let reply = host.post("/v1/models/me/other/run", &json!({"do": "echo"}));
    assert_eq!(reply.status, 200, "neighbours serve: {reply:?}");

    // It outlives a restart.
    let folder = host.stop().unwrap();
    let host = Host::open(config(folder.path()));
    assert_eq!(call(&host, &host.token, "echo").json()["code"], "quarantined");
    assert_eq!(quarantine(&host, &id)["faults"], 5);

    // Only who publishes for its owner says when it comes back.
    let path = format!("/v1/models/me/actor/versions/{id}/release");
    for (owner, scopes, status) in [("me", CALLER, 403), ("eve", &["publish"], 403)] {
        let token = host.token(owner, scopes);
        assert_eq!(
            host.send_as(&token, "POST", &path, &[], b"").status,
            status,
            "{owner} {scopes:?}"
        );
    }
    assert_eq!(call(&host, &host.token, "echo").status, 503);
    let mine = host.token("me", &["publish"]);
    let reply = host.send_as(&mine, "POST", &path, &[], b"");
    assert_eq!(
        (reply.status, &reply.json()["released"]),
        (200, &json!(true)),
        "{reply:?}"
    );
    assert_eq!(call(&host, &host.token, "echo").status, 200);
    assert_eq!(quarantine(&host, &id), Value::Null);
    let again = host.send_as(&mine, "POST", &path, &[], b"");
    assert_eq!((again.status, &again.json()["released"]), (200, &json!(false)));
    // It has a new start, and stays released.
    trap(&host, &host.token, 4);
    assert_eq!(call(&host, &host.token, "echo").status, 200);
    host.stop();
    let host = Host::open(config(folder.path()));
    assert_eq!(call(&host, &host.token, "echo").status, 200);
    assert_eq!(
        host.post("/v1/models/me/nope/versions/latest/release", &json!({}))
            .status,
        404
    );
}

#[test]
fn a_single_success_or_anything_that_is_no_fault_of_the_guest_leaves_a_version_callable() {
    let host = Host::start();
    let id = host.actor();
    for _ in 0..3 {
        trap(&host, &host.token, 4);
        assert_eq!(call(&host, &host.token, "echo").status, 200);
    }
    // Its own errors, broken limits that it is told of, wrong inputs.
    for what in ["invalid", "shape", "big", "xjson", "nonsense"] {
        for _ in 0..6 {
            assert!(call(&host, &host.token, what).status >= 422, "{what}");
        }
    }
    assert_eq!(call(&host, &host.token, "echo").status, 200);
    // Running out of memory is a fault as any other.
    for _ in 0..5 {
        assert_eq!(call(&host, &host.token, "grow").json()["code"], "quota");
    }
    assert!(
        quarantine(&host, &id)["reason"]
            .as_str()
            .unwrap()
            .contains("out of memory")
    );
}

#[test]
fn one_hostile_caller_cannot_take_anothers_version_down() {
    let host = Host::start();
    let id = host.actor();
    let eve = host.token("eve", CALLER);
    trap(&host, &eve, 30);
    // Nor two who work together, nor one with many tokens.
    trap(&host, &host.token("mallory", CALLER), 30);
    trap(&host, &host.token("eve", CALLER), 30);
    assert_eq!(quarantine(&host, &id), Value::Null);
    for token in [&eve, &host.token] {
        assert_eq!(call(&host, token, "echo").status, 200);
    }
    // A version that really traps every time is found by whoever calls it.
    for owner in ["a", "b", "c"] {
        trap(&host, &host.token(owner, CALLER), if owner == "c" { 1 } else { 2 });
    }
    assert_eq!(quarantine(&host, &id)["faults"], 5);
}

#[test]
fn predictions_lead_to_quarantine_too_and_what_waited_fails_with_its_reason() {
    let host = Host::with(|config| config.lanes = 1);
    let id = host.actor();
    let create = |what: &str| {
        let headers = [("content-type", "application/json")];
        let body = json!({"version": id, "input": {"do": what}}).to_string();
        let reply = host.send("POST", "/v1/predictions", &headers, body.as_bytes());
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()
    };
    let ended = |id: &Value| {
        let path = format!("/v1/predictions/{}", id.as_str().unwrap());
        for _ in 0..1000 {
            let found = host.get(&path).json();
            if found["status"] == "failed" || found["status"] == "succeeded" {
                return found;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("{path} does not end");
    };
    // One lane: the first is at work for a while, the others wait behind it, in their order.
    let first = create("wait");
    let traps: Vec<_> = (0..5).map(|_| create("trap")).collect();
    let last = create("echo");
    assert_eq!(ended(&first["id"])["status"], "succeeded");
    for trapped in &traps {
        assert_eq!(ended(&trapped["id"])["error"], "the model panicked");
    }
    let last = ended(&last["id"]);
    assert_eq!(last["status"], "failed");
    let error = last["error"].as_str().unwrap();
    assert!(error.contains("quarantined") && error.contains("/release"), "{error}");
}

#[test]
fn a_call_that_waited_while_its_version_was_quarantined_is_told_as_one_that_comes_later() {
    let host = Host::with(|config| config.lanes = 1);
    let id = host.actor();
    host.patient();
    // One lane, and one owner: whoever waits behind this call waits until it goes away.
    let mut first = connect(host.address);
    let authorization = format!("Bearer {}", host.token);
    let headers = [("authorization", authorization.as_str()), ("content-length", "13")];
    first
        .write_all(&head("POST", "/v1/models/me/patient/run", &headers))
        .unwrap();
    first.write_all(br#"{"do":"loop"}"#).unwrap();
    host.wait_for_metric("maquette_running_calls 1");
    let host = &host;
    std::thread::scope(|scope| {
        let wait = |queued: usize| host.wait_for_metric(&format!("maquette_queued_calls {queued}"));
        let traps: Vec<_> = (1..=5)
            .map(|queued| {
                let call = scope.spawn(|| call(host, &host.token, "trap"));
                wait(queued);
                call
            })
            .collect();
        let last = scope.spawn(|| call(host, &host.token, "echo"));
        wait(6);
        drop(first);
        for trap in traps {
            assert_eq!(trap.join().unwrap().status, 500);
        }
        let (waited, later) = (last.join().unwrap(), call(host, &host.token, "echo"));
        assert_eq!(waited.status, 503, "{waited:?}");
        assert_eq!(waited.json(), later.json());
        assert_eq!(
            (waited.header("retry-after"), waited.header("x-should-retry")),
            (None, Some("false"))
        );
    });
    assert_eq!(quarantine(host, &id)["faults"], 5);
}

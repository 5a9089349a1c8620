//! Running a published model over real sockets: what callers get, whatever they or the guest do.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufReader, Read as _, Write as _};
use std::time::{Duration, Instant};

use common::{Host, connect, head, receive};
use serde_json::{Value, json};

#[test]
fn a_run_returns_the_output_and_the_facts_in_headers() {
    let host = Host::start();
    let id = host.actor();
    let reply = host.run(&json!({"do": "echo", "text": "hé"}));
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(
        reply.json(),
        json!({"do": "echo", "n": 3, "text": "hé"}),
        "defaults are filled in"
    );
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.header("x-maquette-version"), Some(id.as_str()));
    assert_eq!(reply.header("x-maquette-prediction"), reply.header("x-request-id"));
    let ms = |name: &str| reply.header(name).unwrap().parse::<f64>().unwrap();
    assert!(ms("x-maquette-total-ms") > 0.0 && ms("x-maquette-queue-ms") >= 0.0 && ms("x-maquette-compute-ms") >= 0.0);
    assert_eq!(reply.header("x-maquette-cache"), Some("off"));
}

#[test]
fn a_version_is_chosen_by_id_or_alias() {
    let host = Host::start();
    let id = host.actor();
    for reference in [&id, "latest", "1.0.0"] {
        let reply = host.post(
            &format!("/v1/models/me/actor/versions/{reference}/run"),
            &json!({"do": "echo"}),
        );
        assert_eq!(
            (reply.status, reply.header("x-maquette-version")),
            (200, Some(id.as_str())),
            "{reference}"
        );
    }
    let unknown = [
        "/v1/models/me/actor/versions/9.9.9/run",
        "/v1/models/me/actor/versions/%00/run",
        "/v1/models/me/actor/versions/%ff/run",
        "/v1/models/me/nothing/run",
        "/v1/models/you/actor/run",
        "/v1/models/me%2Factor/x/run",
        "/v1/nothing",
    ];
    for path in unknown {
        let reply = host.post(path, &json!({"do": "echo"}));
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.problem().ends_with("was not found"), "{path}");
    }
}

#[test]
fn bad_input_is_told_what_is_wrong_with_it() {
    let host = Host::with(|c| c.max_body_bytes = 1 << 20);
    host.actor();
    let deep = "[".repeat(100_000);
    let long = format!(r#"{{"do":"echo","text":"{}"}}"#, "x".repeat(1 << 20));
    let cases: &[(&str, &[u8], u16, &str)] = &[
        ("no JSON", b"{\"do\": ", 400, "the body is not JSON"),
        ("nothing", b"", 400, "the body is not JSON"),
        ("invalid UTF-8", b"{\"do\":\"\xff\xfe\"}", 400, "the body is not JSON"),
        ("too deep", deep.as_bytes(), 400, "the body is not JSON"),
        ("not an object", b"[1]", 422, "must be a JSON object"),
        ("null", b"null", 422, "must be a JSON object"),
        ("a field missing", b"{}", 422, "do: is required"),
        (
            "a wrong choice",
            br#"{"do":"dance"}"#,
            422,
            "do: \"dance\" is not one of",
        ),
        (
            "an unknown field",
            br#"{"do":"echo","txt":"a"}"#,
            422,
            "txt: is not a field of this model; did you mean `text`?",
        ),
        (
            "a wrong type",
            br#"{"do":"echo","n":"3"}"#,
            422,
            "n: expected an integer, got a string",
        ),
        (
            "out of range",
            br#"{"do":"echo","n":11}"#,
            422,
            "n: 11 is greater than the maximum of 10",
        ),
        ("an empty list", br#"{"do":"echo","text":[]}"#, 422, "text: has 0 items"),
        (
            "a file by URL",
            br#"{"do":"echo","file":"http://169.254.169.254/"}"#,
            422,
            "file: the file could not be fetched: `169.254.169.254` is a cloud's metadata service",
        ),
        (
            "bad base64",
            br#"{"do":"echo","file":"data:;base64,!!"}"#,
            422,
            "file: the base64",
        ),
        ("a body too large", long.as_bytes(), 413, "at most 1048576 bytes"),
    ];
    for (what, body, status, detail) in cases {
        let reply = host.send(
            "POST",
            "/v1/models/me/actor/run",
            &[("content-type", "application/json")],
            body,
        );
        assert_eq!(reply.status, *status, "{what}: {reply:?}");
        assert!(reply.problem().contains(detail), "{what}: {}", reply.problem());
    }
    let many: Vec<String> = (0..10_000).map(|i| i.to_string()).collect();
    let reply = host.run(&json!({"do": "echo", "text": many}));
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (422, "text: has 10000 items, more than the 64 allowed")
    );
    let reply = host.send(
        "POST",
        "/v1/models/me/actor/run",
        &[("content-type", "text/plain")],
        b"{}",
    );
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (415, "unsupported-media-type")
    );
    let reply = host.get("/v1/models/me/actor/run");
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST")));
    reply.problem();
    assert_eq!(host.run(&json!({"do": "echo"})).status, 200, "the server goes on");
}

#[test]
fn every_offending_field_is_in_the_list() {
    let host = Host::start();
    host.actor();
    let reply = host.run(&json!({"do": 1, "n": -1, "text": ["a", 2, "b", null], "zzz": 0}));
    let mut fields: Vec<String> = reply.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["field"].as_str().unwrap().to_owned())
        .collect();
    fields.sort();
    fields.dedup();
    assert_eq!(fields, ["do", "n", "text[1]", "text[3]", "zzz"]);
}

#[test]
fn a_guest_that_fails_gets_a_clear_status_and_harms_nobody() {
    let host = Host::start();
    host.actor();
    let cases = [
        ("trap", 500, "model-failed", "the model panicked"),
        ("shape", 500, "model-failed", "the guest says no"),
        ("xjson", 500, "model-failed", "not JSON"),
        ("invalid", 422, "invalid-input", "the guest says no"),
        ("grow", 422, "quota", "ran out of memory"),
        (
            "big",
            422,
            "quota",
            "the output takes 9437184 bytes; the limit is 8388608",
        ),
    ];
    for (action, status, code, detail) in cases {
        let reply = host.run(&json!({"do": action}));
        assert_eq!(
            (reply.status, reply.json()["code"].as_str().unwrap()),
            (status, code),
            "{action}: {reply:?}"
        );
        assert!(reply.problem().contains(detail), "{action}: {}", reply.problem());
        assert!(reply.header("x-maquette-version").is_some(), "{action}");
        assert_eq!(host.run(&json!({"do": "echo"})).status, 200, "after {action}");
    }
}

#[test]
fn only_contributors_see_a_guests_inner_life() {
    let host = Host::start();
    host.actor();
    let tokens = [
        (host.token("me", &["publish", "predict"]), true),
        (host.token("you", &["publish", "predict"]), false),
        (host.token("me", &["predict"]), false),
        (host.token.clone(), true),
    ];
    for (i, (token, sees)) in tokens.iter().enumerate() {
        let reply = host.send_as(token, "POST", "/v1/models/me/actor/run", &[], br#"{"do":"trap"}"#);
        assert_eq!(
            (reply.status, reply.json()["log"].is_string()),
            (500, *sees),
            "token {i}: {reply:?}"
        );
    }
}

#[test]
fn a_guest_that_loops_is_stopped_at_its_deadline() {
    let host = Host::start();
    let mut manifest = host.manifest("actor", "1.0.0", &common::actor());
    manifest["limits"]["timeout_ms"] = 200.into();
    assert_eq!(
        host.post("/v1/models/me/actor/versions", &json!({"manifest": manifest}))
            .status,
        201
    );
    let started = Instant::now();
    let reply = host.run(&json!({"do": "loop"}));
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (504, "timeout"),
        "{reply:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
}

#[test]
fn a_caller_who_leaves_cancels_the_call() {
    let host = Host::with(|c| c.lanes = 1);
    host.actor();
    let mut stream = connect(host.address);
    let authorization = format!("Bearer {}", host.token);
    let body = br#"{"do":"loop"}"#;
    let headers = [("authorization", authorization.as_str()), ("content-length", "13")];
    stream
        .write_all(&head("POST", "/v1/models/me/actor/run", &headers))
        .unwrap();
    stream.write_all(body).unwrap();
    host.wait_for_metric("maquette_running_calls 1");
    let left = Instant::now();
    drop(stream);
    host.wait_for_metric("maquette_running_calls 0");
    assert!(
        left.elapsed() < Duration::from_secs(3),
        "long before its deadline: {:?}",
        left.elapsed()
    );
    assert_eq!(host.run(&json!({"do": "echo"})).status, 200);
}

fn events(text: &str) -> Vec<(String, Value)> {
    let blocks = text
        .split("\n\n")
        .filter(|block| !block.is_empty() && !block.starts_with(':'));
    let parse = |block: &str| {
        let event = block
            .lines()
            .find_map(|line| line.strip_prefix("event: "))
            .unwrap()
            .to_owned();
        let data: Vec<_> = block.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        (event, serde_json::from_str(&data.join("\n")).unwrap())
    };
    blocks.map(parse).collect()
}

#[test]
fn a_run_streams_events_if_asked_to() {
    let host = Host::start();
    let id = host.actor();
    let accept = [("accept", "text/event-stream"), ("content-type", "application/json")];
    let reply = host.send("POST", "/v1/models/me/actor/run", &accept, br#"{"do":"many"}"#);
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("text/event-stream"))
    );
    assert_eq!(reply.header("x-maquette-version"), Some(id.as_str()));
    let told = events(&reply.text());
    let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["log", "output", "progress", "output", "output", "done"]);
    let items: Vec<_> = told
        .iter()
        .filter(|(name, _)| name == "output")
        .map(|(_, data)| data.clone())
        .collect();
    assert_eq!(items, [json!(1), json!(2), json!(3)]);
    assert_eq!(told[0].1, json!({"level": "info", "message": "half way"}));
    assert_eq!(told[2].1, json!({"fraction": 0.5, "message": "half way"}));
    assert!(told[5].1["total_ms"].as_f64().unwrap() > 0.0);

    let reply = host.send("POST", "/v1/models/me/actor/run", &accept, br#"{"do":"trap"}"#);
    let told = events(&reply.text());
    assert_eq!(
        (told.len(), told[0].0.as_str(), told[0].1["status"].as_u64()),
        (1, "error", Some(500))
    );
    let reply = host.send("POST", "/v1/models/me/actor/run", &accept, br#"{"do":"dance"}"#);
    assert_eq!(reply.status, 422, "what is refused before the call starts is no stream");
    assert_eq!(
        host.run(&json!({"do": "many"})).json(),
        json!([1, 2, 3]),
        "without streaming the output is whole"
    );
}

#[test]
fn a_reader_who_leaves_a_stream_cancels_the_call() {
    let host = Host::with(|c| c.lanes = 1);
    host.actor();
    let mut stream = connect(host.address);
    let authorization = format!("Bearer {}", host.token);
    let headers = [
        ("authorization", authorization.as_str()),
        ("content-length", "13"),
        ("accept", "text/event-stream"),
    ];
    stream
        .write_all(&head("POST", "/v1/models/me/actor/run", &headers))
        .unwrap();
    stream.write_all(br#"{"do":"loop"}"#).unwrap();
    stream.read_exact(&mut [0; 15]).unwrap();
    host.wait_for_metric("maquette_running_calls 1");
    drop(stream);
    let left = Instant::now();
    host.wait_for_metric("maquette_running_calls 0");
    assert!(left.elapsed() < Duration::from_secs(3), "{:?}", left.elapsed());
}

#[test]
fn overload_is_refused_at_once_with_a_time_to_return() {
    let host = Host::with(|c| {
        c.lanes = 1;
        c.queue_limit = 4;
    });
    host.actor();
    host.run(&json!({"do": "wait"}));
    let (token, other) = (host.token("one", &["predict"]), host.token("two", &["predict"]));
    let waiting = |token: &str| {
        let mut stream = connect(host.address);
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str()), ("content-length", "13")];
        stream
            .write_all(&head("POST", "/v1/models/me/actor/run", &headers))
            .unwrap();
        stream.write_all(br#"{"do":"wait"}"#).unwrap();
        stream
    };
    let mut accepted = vec![waiting(&token)];
    host.wait_for_metric("maquette_running_calls 1");
    accepted.extend([waiting(&token), waiting(&token)]);
    host.wait_for_metric("maquette_queued_calls 2");
    let refused = host.send_as(&token, "POST", "/v1/models/me/actor/run", &[], br#"{"do":"wait"}"#);
    assert_eq!(
        (refused.status, refused.json()["code"].as_str().unwrap()),
        (429, "over-share"),
        "{refused:?}"
    );
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    accepted.extend([waiting(&other), waiting(&other)]);
    host.wait_for_metric("maquette_queued_calls 4");
    let refused = host.run(&json!({"do": "wait"}));
    assert_eq!(
        (refused.status, refused.json()["code"].as_str().unwrap()),
        (503, "busy"),
        "{refused:?}"
    );
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    for stream in accepted {
        assert_eq!(
            receive(&mut BufReader::new(stream)).status,
            200,
            "what was let in is served"
        );
    }
}

#[test]
fn files_travel_as_data_uris() {
    let host = Host::start();
    host.actor();
    let reply = host.run(&json!({"do": "echo", "file": "data:text/plain;base64,aGk="}));
    assert_eq!(reply.status, 200);
    assert_eq!(
        reply.json()["file"],
        "maquette-file:0",
        "the guest sees a reference, never the bytes"
    );
}

#[test]
fn many_calls_on_one_connection_and_many_connections_are_all_answered() {
    let host = Host::with(|c| c.queue_limit = 4096);
    host.actor();
    let body = br#"{"do":"echo"}"#;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut stream = BufReader::new(connect(host.address));
                let authorization = format!("Token {}", host.token);
                for _ in 0..50 {
                    let headers = [("authorization", authorization.as_str()), ("content-length", "13")];
                    stream
                        .get_mut()
                        .write_all(&head("POST", "/v1/models/me/actor/run", &headers))
                        .unwrap();
                    stream.get_mut().write_all(body).unwrap();
                    assert_eq!(receive(&mut stream).json(), json!({"do": "echo", "n": 3}));
                }
            });
        }
    });
    let id = host.get("/v1/models/me/actor").json()["latest_version"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    host.wait_for_metric(&format!(
        r#"maquette_calls_total{{model="me/actor",version="{id}",code="ok"}} 400"#
    ));
}

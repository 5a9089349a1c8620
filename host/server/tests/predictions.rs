//! Predictions over HTTP: made, waited for, cancelled, streamed, listed, kept, and run again after a restart.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::time::{Duration, Instant};

use common::{Host, Reply, connect, head};
use serde_json::{Value, json};

const WAIT: &[(&str, &str)] = &[("content-type", "application/json"), ("prefer", "wait")];

fn wait(host: &Host, body: &Value) -> Reply {
    host.send("POST", "/v1/predictions", WAIT, body.to_string().as_bytes())
}

/// Polls until a prediction has ended.
fn end(host: &Host, id: &str) -> Value {
    for _ in 0..2000 {
        let reply = host.get(&format!("/v1/predictions/{id}"));
        assert_eq!(reply.status, 200, "{reply:?}");
        let body = reply.json();
        if !matches!(body["status"].as_str().unwrap(), "starting" | "processing") {
            return body;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{id} never ended");
}

fn id(body: &Value) -> String {
    body["id"].as_str().unwrap().to_owned()
}

/// Publishes the actor as a version that says whether it is deterministic.
fn publish(host: &Host, name: &str, deterministic: bool) -> String {
    let mut manifest = host.manifest(name, "1.0.0", &common::actor());
    manifest["deterministic"] = deterministic.into();
    let reply = host.post(
        &format!("/v1/models/me/{name}/versions"),
        &json!({"manifest": manifest}),
    );
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()["id"].as_str().unwrap().to_owned()
}

#[test]
fn a_caller_who_waits_gets_the_end_and_the_same_object_ever_after() {
    let host = Host::start();
    let version = host.actor();
    for named in [
        version.clone(),
        format!("me/actor:{version}"),
        "me/actor".to_owned(),
        "me/actor:latest".to_owned(),
    ] {
        let reply = wait(&host, &json!({"version": named, "input": {"do": "echo"}}));
        assert_eq!(reply.status, 201, "{reply:?}");
        assert_eq!(reply.header("preference-applied"), Some("wait"));
        let body = reply.json();
        assert_eq!(body["status"], "succeeded", "{body}");
        assert_eq!(body["output"], json!({"do": "echo", "n": 3}));
        assert_eq!(body["input"], json!({"do": "echo"}), "as it was sent");
        assert_eq!(
            (body["model"].as_str(), body["version"].as_str()),
            (Some("me/actor"), Some(version.as_str()))
        );
        let metric = |name: &str| body["metrics"][name].as_f64().unwrap();
        assert!(metric("predict_time") > 0.0 && body["completed_at"].is_string());
        // A billionth of a second is the error of adding fractions.
        assert!(
            metric("total_time") + 1e-9 >= metric("predict_time") + metric("queue_time"),
            "{body}"
        );
        assert_eq!((&body["error"], &body["data_removed"]), (&Value::Null, &json!(false)));
        let url = body["urls"]["get"].as_str().unwrap();
        assert!(url.starts_with("http://test.local/v1/predictions/"));
        assert_eq!(host.get(&format!("/v1/predictions/{}", id(&body))).json(), body);
    }
    let by_model = host.send(
        "POST",
        "/v1/models/me/actor/predictions",
        WAIT,
        br#"{"input":{"do":"echo"}}"#,
    );
    assert_eq!(by_model.json()["status"], "succeeded");
}

#[test]
fn a_caller_who_does_not_wait_is_told_starting_and_finds_the_end_by_polling() {
    let host = Host::start();
    let version = host.actor();
    let reply = host.post("/v1/predictions", &json!({"version": version, "input": {"do": "many"}}));
    assert_eq!((reply.status, reply.json()["status"].as_str()), (201, Some("starting")));
    assert_eq!(reply.header("preference-applied"), None);
    assert!(
        reply
            .header("location")
            .is_none_or(|url| url.ends_with(&id(&reply.json())))
    );
    let ended = end(&host, &id(&reply.json()));
    assert_eq!(
        (ended["status"].as_str(), &ended["output"]),
        (Some("succeeded"), &json!([1, 2, 3]))
    );
    assert_eq!(ended["logs"], "half way\n");
}

#[test]
fn a_wait_that_is_over_says_starting_whatever_the_guest_does() {
    let host = Host::start();
    let version = host.actor();
    let body = json!({"version": version, "input": {"do": "loop"}}).to_string();
    let reply = host.send("POST", "/v1/predictions", &[("prefer", "wait=1")], body.as_bytes());
    assert_eq!((reply.status, reply.json()["status"].as_str()), (202, Some("starting")));
    assert_eq!(reply.header("preference-applied"), Some("wait=1"));
    let running = host.get(&format!("/v1/predictions/{}", id(&reply.json()))).json();
    assert_eq!(running["status"], "processing", "a poll says what is true");
    let cancelled = host.post(&format!("/v1/predictions/{}/cancel", id(&running)), &json!({}));
    assert_eq!(
        (cancelled.status, cancelled.json()["status"].as_str()),
        (200, Some("canceled"))
    );
}

/// Clients that iterate yield what a poll brings beyond the reply before it, and nothing of the first reply.
#[test]
fn a_reply_that_says_starting_holds_nothing_of_the_output_yet() {
    let host = Host::start();
    let version = host.actor();
    let body = json!({"version": version, "input": {"do": "never"}}).to_string();
    let reply = host.send("POST", "/v1/predictions", &[("prefer", "wait=1")], body.as_bytes());
    let told = |body: &Value| json!([body["status"], body["output"], body["error"], body["logs"]]);
    assert_eq!(told(&reply.json()), json!(["starting", null, null, ""]));
    let path = format!("/v1/predictions/{}", id(&reply.json()));
    let running = host.get(&path).json();
    assert_eq!(told(&running), json!(["processing", [1], null, "half way\n"]));
    host.post(&format!("{path}/cancel"), &json!({}));
}

#[test]
fn a_failure_of_the_model_is_an_end_and_not_an_http_error() {
    let host = Host::start();
    let version = host.actor();
    for (what, words) in [("trap", "the model"), ("invalid", "the guest says no"), ("xjson", "")] {
        let reply = wait(&host, &json!({"version": version, "input": {"do": what}}));
        let body = reply.json();
        assert_eq!((reply.status, body["status"].as_str()), (201, Some("failed")), "{body}");
        assert!(body["error"].as_str().unwrap().contains(words), "{body}");
        assert_eq!(body["output"], Value::Null);
    }
}

#[test]
fn what_cannot_be_run_is_refused_before_it_is_recorded() {
    let host = Host::start();
    let version = host.actor();
    let table = [
        (json!([]), 422),
        (json!({}), 422),
        (json!({"version": version}), 422),
        (json!({"version": version, "input": {"do": "nope"}}), 422),
        (json!({"version": version, "input": 3}), 422),
        (json!({"version": "me/nothing", "input": {}}), 422),
        (json!({"version": "ab".repeat(32), "input": {}}), 422),
        (
            json!({"version": version, "input": {"do": "echo"}, "webhook": "nope"}),
            422,
        ),
    ];
    for (body, status) in table {
        let reply = wait(&host, &body);
        assert_eq!(reply.status, status, "{body}: {reply:?}");
        reply.problem();
    }
    let raw = host.send("POST", "/v1/predictions", &[], b"{");
    assert_eq!(raw.status, 400);
    let bad = host.send("POST", "/v1/predictions", &[("prefer", "wait=99")], b"{}");
    assert_eq!(bad.status, 400);
    assert_eq!(host.get("/v1/predictions").json()["results"], json!([]));
}

#[test]
fn cancelling_ends_what_runs_and_what_waits_and_leaves_what_has_ended() {
    let host = Host::with(|config| config.lanes = 1);
    let version = host.actor();
    let make = |what: &str| {
        host.post("/v1/predictions", &json!({"version": version, "input": {"do": what}}))
            .json()
    };
    let running = make("loop");
    let waiting = make("echo");
    assert_eq!(waiting["queue_position"], 0, "{waiting}");
    assert!(waiting["expected_start_at"].is_string());
    for prediction in [&waiting, &running] {
        let before = Instant::now();
        let reply = host.post(&format!("/v1/predictions/{}/cancel", id(prediction)), &json!({}));
        let body = reply.json();
        assert_eq!(
            (reply.status, body["status"].as_str()),
            (200, Some("canceled")),
            "{body}"
        );
        assert!(before.elapsed() < Duration::from_secs(2));
        assert_eq!(body["error"], Value::Null);
    }
    let ended = wait(&host, &json!({"version": version, "input": {"do": "echo"}})).json();
    let again = host.post(&format!("/v1/predictions/{}/cancel", id(&ended)), &json!({}));
    assert_eq!(
        (again.status, again.json()["status"].as_str()),
        (200, Some("succeeded"))
    );
    assert_eq!(host.post("/v1/predictions/nothing/cancel", &json!({})).status, 404);
}

#[test]
fn a_deadline_cancels_before_the_start_and_while_it_runs() {
    let host = Host::with(|config| config.lanes = 1);
    let version = host.actor();
    let body = json!({"version": version, "input": {"do": "loop"}}).to_string();
    let running = host
        .send("POST", "/v1/predictions", &[("cancel-after", "5")], body.as_bytes())
        .json();
    assert!(running["deadline"].is_string());
    let body = json!({"version": version, "input": {"do": "loop"}, "lifetime": "1s"}).to_string();
    let waiting = host.send("POST", "/v1/predictions", &[], body.as_bytes()).json();
    let ended = end(&host, &id(&waiting));
    assert_eq!(
        (ended["status"].as_str(), ended["error"].as_str()),
        (Some("canceled"), Some("deadline exceeded"))
    );
    assert_eq!(ended["started_at"], Value::Null);
    // The version's own limit is five seconds as well: whichever comes first ends it.
    let ended = end(&host, &id(&running));
    assert!(
        matches!(ended["status"].as_str(), Some("canceled" | "failed")),
        "{ended}"
    );
}

#[test]
fn a_caller_who_goes_away_while_it_waits_cancels() {
    let host = Host::start();
    let version = host.actor();
    let body = json!({"version": version, "input": {"do": "loop"}}).to_string();
    let mut stream = connect(host.address);
    let authorization = format!("Bearer {}", host.token);
    let length = body.len().to_string();
    let headers = [
        ("authorization", authorization.as_str()),
        ("prefer", "wait"),
        ("content-length", &length),
    ];
    stream.write_all(&head("POST", "/v1/predictions", &headers)).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let listed = || host.get("/v1/predictions").json()["results"][0].clone();
    while listed()["status"] != "processing" {
        std::thread::sleep(Duration::from_millis(5));
    }
    drop(stream);
    let ended = end(&host, &id(&listed()));
    assert_eq!(ended["status"], "canceled");
}

/// Reads events until the stream ends, each as (name, id, data).
fn events(host: &Host, path: &str, headers: &[(&str, &str)]) -> Vec<(String, String, String)> {
    let mut stream = connect(host.address);
    let mut all = vec![("connection", "close"), ("accept", "text/event-stream")];
    all.extend(headers);
    stream.write_all(&head("GET", path, &all)).unwrap();
    let reply = common::receive(&mut BufReader::new(stream));
    assert_eq!(
        (reply.status, reply.header("content-type")),
        (200, Some("text/event-stream")),
        "{reply:?}"
    );
    parse(&reply.text())
}

fn parse(text: &str) -> Vec<(String, String, String)> {
    let field = |event: &str, name: &str| {
        let lines = event.lines().filter_map(|line| line.strip_prefix(name));
        lines.collect::<Vec<_>>().join("\n")
    };
    text.split("\n\n")
        .filter(|event| event.starts_with("event: "))
        .map(|event| (field(event, "event: "), field(event, "id: "), field(event, "data: ")))
        .collect()
}

fn stream_path(body: &Value) -> String {
    body["urls"]["stream"]
        .as_str()
        .unwrap()
        .strip_prefix("http://test.local")
        .unwrap()
        .to_owned()
}

#[test]
fn a_stream_needs_no_token_has_ids_and_goes_on_where_it_was_left() {
    let host = Host::start();
    let version = host.actor();
    let made = host
        .post("/v1/predictions", &json!({"version": version, "input": {"do": "many"}}))
        .json();
    let path = stream_path(&made);
    let all = events(&host, &path, &[]);
    let told: Vec<_> = all
        .iter()
        .map(|(name, _, data)| (name.as_str(), data.as_str()))
        .collect();
    let outputs: Vec<_> = told
        .iter()
        .filter(|(name, _)| *name == "output")
        .map(|(_, data)| *data)
        .collect();
    assert_eq!(outputs, ["1", "2", "3"]);
    assert!(told.contains(&("logs", "half way")), "{told:?}");
    assert_eq!(told.last(), Some(&("done", "{}")));
    assert!(all.iter().all(|(_, id, _)| !id.is_empty()));
    let second = all.iter().position(|(_, _, data)| data == "2").unwrap();
    let rest = events(&host, &path, &[("last-event-id", &all[second].1)]);
    let rest: Vec<_> = rest
        .iter()
        .filter(|(name, ..)| name == "output")
        .map(|(_, _, data)| data.as_str())
        .collect();
    assert_eq!(rest, ["3"], "nothing twice and nothing left out");

    let folder = host.stop();
    let host = Host::open(common::config(folder.as_ref().unwrap().path()));
    let again = events(&host, &path, &[]);
    assert_eq!(
        again.iter().filter(|(name, ..)| name == "output").count(),
        3,
        "a restart changes nothing"
    );
    let wrong = path.replace("signature=", "signature=00");
    assert_eq!(host.send_as("", "GET", &wrong, &[], b"").status, 404);
    assert_eq!(
        host.send_as("", "GET", path.split('?').next().unwrap(), &[], b"")
            .status,
        404
    );
    assert_eq!(
        host.send_as("", "GET", &path, &[("last-event-id", "x")], b"").status,
        400
    );
}

#[test]
fn an_iterators_output_is_one_event_an_item_however_it_came() {
    let host = Host::start();
    let version = publish(&host, "lists", true);
    // Runs, is taken from the cache, and is read after its end: always the same events.
    for round in 0..2 {
        let made = wait(&host, &json!({"version": version, "input": {"do": "many"}})).json();
        let told = events(&host, &stream_path(&made), &[]);
        let outputs: Vec<_> = told.iter().filter(|(name, ..)| name == "output").collect();
        let data: Vec<_> = outputs.iter().map(|(_, _, data)| data.as_str()).collect();
        assert_eq!(data, ["1", "2", "3"], "round {round}");
    }
}

#[test]
fn a_stream_of_what_was_cancelled_says_so() {
    let host = Host::start();
    let version = host.actor();
    let made = host
        .post("/v1/predictions", &json!({"version": version, "input": {"do": "loop"}}))
        .json();
    let path = stream_path(&made);
    let told = std::thread::scope(|scope| {
        let reader = scope.spawn(|| events(&host, &path, &[]));
        host.post(&format!("/v1/predictions/{}/cancel", id(&made)), &json!({}));
        reader.join().unwrap()
    });
    let (name, _, data) = told.last().unwrap();
    assert_eq!((name.as_str(), data.as_str()), ("done", r#"{"reason":"canceled"}"#));
}

#[test]
fn streams_are_bounded_for_each_owner_and_in_all() {
    let host = Host::with(|c| {
        c.connections = 16;
        c.streams_per_owner = 5;
    });
    let version = host.patient();
    let begin = |token: &str| {
        let body = json!({"version": version, "input": {"do": "loop"}}).to_string();
        let made = host.send_as(token, "POST", "/v1/predictions", &[], body.as_bytes());
        (id(&made.json()), stream_path(&made.json()))
    };
    // The status, and what keeps the stream open.
    let open = |path: &str| {
        let mut stream = connect(host.address);
        stream.write_all(&head("GET", path, &[])).unwrap();
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        (line.split(' ').nth(1).unwrap().parse::<u16>().unwrap(), stream)
    };
    let owners = ["one", "two", "three"].map(|owner| host.token(owner, &["predict"]));
    let begun = [0, 1, 2].map(|n| begin(&owners[n]));
    let mut held: Vec<_> = (0..5).map(|_| open(&begun[0].1)).collect();
    held.extend((0..5).map(|_| open(&begun[1].1)));
    assert!(held.iter().all(|(status, _)| *status == 200));
    let refused = host.send_as("", "GET", &begun[0].1, &[], b"");
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("5")));
    assert!(refused.problem().contains("one owner"));
    // Three quarters of the connections are for streams.
    held.extend((0..2).map(|_| open(&begun[2].1)));
    let refused = host.send_as("", "GET", &begun[2].1, &[], b"");
    assert_eq!(refused.status, 429);
    assert!(refused.problem().contains("this server"));
    held.remove(0);
    let again = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        let (status, stream) = open(&begun[0].1);
        held.push((status, stream));
        status == 200 || held.pop().is_none()
    });
    assert!(again, "whoever leaves makes room");
    for ((id, _), owner) in begun.iter().zip(&owners) {
        host.send_as(owner, "POST", &format!("/v1/predictions/{id}/cancel"), &[], b"");
    }
}

#[test]
fn nobody_learns_of_anothers_prediction() {
    let host = Host::start();
    let version = host.actor();
    let mine = wait(&host, &json!({"version": version, "input": {"do": "echo"}})).json();
    let other = host.token("other", &["predict", "read"]);
    let as_other = |method: &str, path: &str| {
        let reply = host.send_as(&other, method, path, &[], b"");
        (reply.status, reply.json())
    };
    for (method, tail) in [("GET", ""), ("POST", "/cancel"), ("DELETE", "")] {
        let theirs = as_other(method, &format!("/v1/predictions/{}{tail}", id(&mine)));
        let nobodys = as_other(method, &format!("/v1/predictions/{}{tail}", "a".repeat(26)));
        assert_eq!(theirs.0, 404);
        assert_eq!(theirs, nobodys);
    }
    assert_eq!(as_other("GET", "/v1/predictions").1["results"], json!([]));
    assert_eq!(as_other("GET", "/v1/usage").1["results"], json!([]));
    let reader = host.token("other", &["publish"]);
    assert_eq!(host.send_as(&reader, "GET", "/v1/predictions", &[], b"").status, 403);
    assert_eq!(host.send_as("", "GET", "/v1/predictions", &[], b"").status, 401);
}

#[test]
fn lists_are_filtered_and_followed_to_their_end() {
    let host = Host::start();
    let version = host.actor();
    for _ in 0..5 {
        wait(&host, &json!({"version": version, "input": {"do": "echo"}}));
    }
    wait(&host, &json!({"version": version, "input": {"do": "trap"}}));
    let mut path =
        "/v1/predictions?limit=2&status=succeeded&model=me/actor&created_after=2020-01-01T00:00:00%2B00:00".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = host.get(&path).json();
        seen.extend(page["results"].as_array().unwrap().iter().map(id));
        match page["next"].as_str() {
            Some(url) => path = url.strip_prefix("http://test.local").unwrap().to_owned(),
            None => break,
        }
    }
    assert_eq!(seen.len(), 5);
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
    let count = |query: &str| {
        host.get(&format!("/v1/predictions?{query}")).json()["results"]
            .as_array()
            .unwrap()
            .len()
    };
    assert_eq!(count("status=failed"), 1);
    assert_eq!(count(&format!("version={version}&source=api")), 6);
    assert_eq!(count("source=web"), 0);
    assert_eq!(count("created_before=2020-01-01T00:00:00Z"), 0);
    for bad in [
        "limit=0",
        "limit=x",
        "cursor=zz",
        "status=aborted",
        "version=1",
        "source=x",
        "created_after=now",
    ] {
        let reply = host.get(&format!("/v1/predictions?{bad}"));
        assert_eq!(reply.status, 400, "{bad}");
        reply.problem();
    }
}

#[test]
fn a_request_sent_twice_under_one_name_is_done_once() {
    let host = Host::start();
    let version = host.actor();
    let body = json!({"version": version, "input": {"do": "wait"}}).to_string();
    let post = |key: &str, body: &str| {
        host.send(
            "POST",
            "/v1/predictions",
            &[("idempotency-key", key), ("prefer", "wait")],
            body.as_bytes(),
        )
    };
    let both: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| post("k1", &body))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let first = id(&both[0].json());
    assert!(
        both.iter()
            .all(|reply| id(&reply.json()) == first && reply.json()["status"] == "succeeded")
    );
    assert_eq!(
        host.get("/v1/predictions").json()["results"].as_array().unwrap().len(),
        1
    );
    let other = json!({"version": version, "input": {"do": "echo"}}).to_string();
    assert_eq!(post("k1", &other).status, 422);
    assert_ne!(id(&post("k2", &other).json()), first);

    let put = |id: &str, body: &str| host.send("PUT", &format!("/v1/predictions/{id}"), WAIT, body.as_bytes());
    let made = put("my-own-id", &other);
    assert_eq!(
        (made.status, made.json()["id"].as_str()),
        (201, Some("my-own-id")),
        "{made:?}"
    );
    let again = put("my-own-id", &other);
    assert_eq!((again.status, again.json()), (200, made.json()));
    assert_eq!(put("not%20an%20id", &other).status, 400);
    let two = json!({"version": version, "input": {"do": "echo"}, "id": "b"}).to_string();
    assert_eq!(put("a", &two).status, 422);

    let folder = host.stop();
    let host = Host::open(common::config(folder.as_ref().unwrap().path()));
    let reply = host.send("POST", "/v1/predictions", &[("idempotency-key", "k1")], body.as_bytes());
    assert_eq!(id(&reply.json()), first, "a restart forgets no name");
}

#[test]
fn identical_inputs_of_a_deterministic_version_are_computed_once_and_for_their_caller_alone() {
    let host = Host::start();
    let (sure, unsure) = (publish(&host, "sure", true), publish(&host, "unsure", false));
    let run = |version: &str, headers: &[(&str, &str)]| {
        let mut all = WAIT.to_vec();
        all.extend(headers);
        let body = json!({"version": version, "input": {"do": "many"}}).to_string();
        let reply = host.send("POST", "/v1/predictions", &all, body.as_bytes());
        assert_eq!(reply.json()["output"], json!([1, 2, 3]), "{reply:?}");
        assert_eq!(reply.json()["cache"].as_str(), reply.header("x-maquette-cache"));
        reply
    };
    let cache = |reply: &Reply| reply.header("x-maquette-cache").unwrap().to_owned();
    let first = run(&sure, &[]);
    assert_eq!(cache(&first), "miss");
    let second = run(&sure, &[]);
    assert_eq!(cache(&second), "hit");
    assert_ne!(id(&first.json()), id(&second.json()), "a record of its own");
    assert_eq!(
        (
            second.json()["metrics"]["billed_ms"].as_u64(),
            second.json()["logs"].as_str()
        ),
        (Some(0), Some("half way\n"))
    );
    assert_eq!(cache(&run(&sure, &[("x-maquette-cache", "off")])), "off");
    assert_eq!(
        (cache(&run(&unsure, &[])), cache(&run(&unsure, &[]))),
        ("off".to_owned(), "off".to_owned())
    );
    let direct = host.post("/v1/models/me/sure/run", &json!({"n": 3, "do": "many"}));
    assert_eq!(
        (direct.header("x-maquette-cache"), direct.json()),
        (Some("hit"), json!([1, 2, 3]))
    );
    let other = host.token("other", &["predict"]);
    let body = json!({"version": sure, "input": {"do": "many"}}).to_string();
    let theirs = host.send_as(&other, "POST", "/v1/predictions", WAIT, body.as_bytes());
    assert_eq!(
        cache(&theirs),
        "miss",
        "what one caller computed another cannot learn of"
    );
    let streamed = events(&host, &stream_path(&second.json()), &[]);
    assert_eq!(streamed.iter().filter(|(name, ..)| name == "output").count(), 3);
}

#[test]
fn identical_calls_at_one_time_are_one_run() {
    let host = Host::with(|config| config.lanes = 1);
    let version = publish(&host, "sure", true);
    let body = json!({"version": version, "input": {"do": "wait"}}).to_string();
    let replies: Vec<_> = std::thread::scope(|scope| {
        let post = || host.send("POST", "/v1/predictions", WAIT, body.as_bytes());
        let threads: Vec<_> = (0..6).map(|_| scope.spawn(post)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut caches: Vec<_> = replies.iter().map(|r| r.header("x-maquette-cache").unwrap()).collect();
    assert!(replies.iter().all(|r| r.json()["status"] == "succeeded"));
    caches.sort_unstable();
    assert_eq!(caches.iter().filter(|c| **c == "miss").count(), 1, "{caches:?}");
    let usage = host.get("/v1/usage").json();
    assert_eq!(
        (
            usage["total"]["predictions"].as_u64(),
            usage["total"]["cached"].as_u64()
        ),
        (Some(6), Some(5))
    );
}

#[test]
fn secrets_and_removed_data_are_gone_from_the_folder() {
    let host = Host::start();
    let version = host.actor();
    let token = host.token.clone();
    let body = json!({"version": version, "input": {"do": "echo", "text": format!("x{token}y")}});
    let made = wait(&host, &body).json();
    assert_eq!(made["input"]["text"], "[REDACTED]");
    let marked = wait(
        &host,
        &json!({"version": version, "input": {"do": "echo", "text": "to be forgotten"}}),
    )
    .json();
    let path = format!("/v1/predictions/{}", id(&marked));
    assert_eq!(host.send("DELETE", &path, &[], b"").status, 204);
    for _ in 0..2 {
        let gone = host.get(&path).json();
        assert_eq!(
            (&gone["data_removed"], &gone["output"], &gone["input"]),
            (&json!(true), &Value::Null, &json!({}))
        );
        assert!(gone["metrics"]["predict_time"].is_number());
    }
    assert_eq!(host.send("DELETE", "/v1/predictions/nothing", &[], b"").status, 404);
}

#[test]
fn usage_is_counted_by_day_model_and_token_for_every_way_to_call() {
    let host = Host::with(|config| config.price_per_ms = 1_000_000);
    let version = host.actor();
    wait(&host, &json!({"version": version, "input": {"do": "echo"}}));
    host.run(&json!({"do": "echo"}));
    let usage = host.get("/v1/usage").json();
    assert_eq!(usage["total"]["predictions"], 2, "{usage}");
    let line = &usage["results"][0];
    assert_eq!(
        (line["model"].as_str(), line["predictions"].as_u64()),
        (Some("me/actor"), Some(2))
    );
    assert_eq!(
        line["cost"].as_f64().unwrap(),
        line["billed_ms"].as_u64().unwrap() as f64 * 0.001
    );
    assert_eq!(
        host.get("/v1/usage?from=2020-01-01&to=2020-01-31").json()["results"],
        json!([])
    );
    assert_eq!(host.get("/v1/usage?from=yesterday").status, 400);
    let folder = host.stop();
    let host = Host::open(common::config(folder.as_ref().unwrap().path()));
    assert_eq!(host.get("/v1/usage").json()["total"]["predictions"], 2);
}

#[test]
fn a_spend_limit_stops_before_it_is_passed() {
    let host = Host::with(|config| config.price_per_ms = 1_000_000);
    let version = host.actor();
    let set = |body: &Value| host.send("PUT", "/v1/spend-limits/admin", &[], body.to_string().as_bytes());
    assert_eq!(set(&json!({"day": 0})).status, 200);
    let refused = wait(&host, &json!({"version": version, "input": {"do": "echo"}}));
    assert_eq!(refused.status, 402, "{refused:?}");
    assert_eq!(host.run(&json!({"do": "echo"})).status, 402);
    assert_eq!(set(&json!({"day": 5.0, "month": null})).status, 200);
    assert_eq!(
        wait(&host, &json!({"version": version, "input": {"do": "echo"}})).json()["status"],
        "succeeded"
    );
    for bad in [json!({"day": -1}), json!({"day": "x"}), json!({"week": 1})] {
        assert_eq!(set(&bad).status, 422, "{bad}");
    }
    let other = host.token("other", &["predict", "read", "publish"]);
    assert_eq!(
        host.send_as(&other, "PUT", "/v1/spend-limits/other", &[], b"{}").status,
        403
    );
}

#[test]
fn whoever_shares_a_run_that_fails_and_may_spend_no_more_ends_too() {
    let host = Host::with(|config| config.price_per_ms = 1_000_000);
    let version = publish(&host, "sure", true);
    let make = || {
        let body = json!({"version": version, "input": {"do": "loop"}});
        host.post("/v1/predictions", &body).json()
    };
    let (first, second) = (make(), make());
    let shown = host.get(&format!("/v1/predictions/{}", id(&second))).json();
    assert_eq!(shown["cache"], "shared", "{shown}");
    let limit = json!({"day": 0}).to_string();
    assert_eq!(
        host.send("PUT", "/v1/spend-limits/admin", &[], limit.as_bytes()).status,
        200
    );
    host.post(&format!("/v1/predictions/{}/cancel", id(&first)), &json!({}));
    let ended = end(&host, &id(&second));
    assert_eq!(ended["status"], "failed", "{ended}");
    assert!(ended["error"].as_str().unwrap().contains("spend limit"), "{ended}");
}

#[test]
fn what_a_stop_leaves_is_run_by_the_next_start() {
    let host = Host::with(|config| {
        config.lanes = 1;
        config.drain = Duration::from_millis(100);
    });
    let version = host.actor();
    let make = |what: &str| {
        let reply = host.post("/v1/predictions", &json!({"version": version, "input": {"do": what}}));
        assert_eq!(reply.status, 201, "{reply:?}");
        id(&reply.json())
    };
    let (running, waiting) = (make("loop"), make("many"));
    let folder = host.stop();
    let host = Host::open(common::config(folder.as_ref().unwrap().path()));
    assert_eq!(end(&host, &waiting)["output"], json!([1, 2, 3]));
    let ended = end(&host, &running);
    assert_eq!(ended["status"], "failed", "it loops until its time is over: {ended}");
    let usage = host.get("/v1/usage").json();
    assert_eq!(usage["total"]["predictions"], 2, "each ended once: {usage}");
}

#[test]
fn an_overloaded_server_refuses_at_once_and_says_when_to_return() {
    let host = Host::with(|config| {
        config.lanes = 1;
        config.queue_limit = 4;
    });
    let version = host.actor();
    let make = || host.post("/v1/predictions", &json!({"version": version, "input": {"do": "loop"}}));
    let replies: Vec<_> = (0..8).map(|_| make()).collect();
    let accepted: Vec<_> = replies
        .iter()
        .filter(|r| r.status == 201)
        .map(|r| id(&r.json()))
        .collect();
    let refused: Vec<_> = replies.iter().filter(|r| r.status != 201).collect();
    assert_eq!(accepted.len(), 3, "one runs, and half of the queue is one owner's");
    for reply in refused {
        assert!(matches!(reply.status, 429 | 503), "{reply:?}");
        assert!(reply.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    }
    assert_eq!(
        host.get("/v1/predictions").json()["results"].as_array().unwrap().len(),
        3
    );
    for id in &accepted {
        host.post(&format!("/v1/predictions/{id}/cancel"), &json!({}));
    }
    assert_eq!(make().status, 201, "there is room again");
}

#[test]
fn a_full_server_does_no_work_for_what_it_refuses_and_still_answers_what_it_has() {
    let host = Host::with(|c| {
        c.lanes = 1;
        c.queue_limit = 2;
    });
    let (same, patient) = (publish(&host, "same", true), host.patient());
    let echo = json!({"version": same, "input": {"do": "echo"}});
    assert_eq!(wait(&host, &echo).json()["cache"], "miss");
    let endless = json!({"version": patient, "input": {"do": "loop"}});
    let running = host.post("/v1/predictions", &endless).json();
    host.wait_for_metric("maquette_running_calls 1");
    let waiting = host.post("/v1/predictions", &endless).json();
    // It does not get as far as its input, which is wrong.
    let refused = host.post(
        "/v1/predictions",
        &json!({"version": patient, "input": {"do": "dance"}}),
    );
    assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true));
    assert_eq!(
        host.post("/v1/models/me/patient/run", &json!({"do": "dance"})).status,
        429
    );
    let answered = wait(&host, &echo).json();
    assert_eq!(
        (answered["status"].as_str(), answered["cache"].as_str()),
        (Some("succeeded"), Some("hit"))
    );
    for made in [running, waiting] {
        host.post(&format!("/v1/predictions/{}/cancel", id(&made)), &json!({}));
    }
}

#[test]
fn a_caller_who_goes_away_while_its_prediction_is_made_leaves_nothing_that_never_ends() {
    let host = Host::start();
    let version = host.actor();
    let authorization = format!("Bearer {}", host.token);
    for n in 0..60 {
        let body = json!({"version": version, "input": {"do": "echo", "text": format!("{n}")}}).to_string();
        let (length, key) = (body.len().to_string(), format!("k{n}"));
        let mut headers = vec![("authorization", authorization.as_str()), ("content-length", &length)];
        // Some could be asked for again by their name, some are waited for, and of some nobody ever hears.
        match n % 3 {
            0 => headers.push(("idempotency-key", &key)),
            1 => headers.push(("prefer", "wait")),
            _ => {}
        }
        let mut stream = connect(host.address);
        stream.write_all(&head("POST", "/v1/predictions", &headers)).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_micros(60 * n));
    }
    let open = || host.get("/v1/predictions?status=starting").json()["results"].clone();
    // The last of them may still be on its way in: nothing is open for a while, then.
    let mut quiet = 0;
    for _ in 0..3000 {
        quiet = if open() == json!([]) { quiet + 1 } else { 0 };
        if quiet == 30 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(quiet, 30, "these never end: {}", open());
    for n in (0..60).step_by(3) {
        let body = json!({"version": version, "input": {"do": "echo", "text": format!("{n}")}}).to_string();
        let key = format!("k{n}");
        let headers = [("idempotency-key", key.as_str()), ("prefer", "wait=5")];
        let reply = host.send("POST", "/v1/predictions", &headers, body.as_bytes());
        assert_eq!(reply.json()["status"], "succeeded", "{reply:?}");
    }
}

#[test]
fn whoever_shares_the_run_of_one_that_is_refused_runs_or_is_refused_too() {
    let host = Host::with(|config| (config.lanes, config.queue_limit) = (1, 2));
    let version = publish(&host, "sure", true);
    // Something that holds the lane and the queue now and then.
    std::thread::scope(|scope| {
        for caller in 0..8 {
            let (host, version) = (&host, &version);
            scope.spawn(move || {
                for round in 0..20 {
                    let input = json!({"do": "echo", "text": format!("{}", round / 2)});
                    let input = if caller < 2 {
                        json!({"do": "trap", "n": round % 10})
                    } else {
                        input
                    };
                    let headers = [("prefer", "wait=10")];
                    let body = json!({"version": version, "input": input}).to_string();
                    let reply = host.send("POST", "/v1/predictions", &headers, body.as_bytes());
                    assert!(matches!(reply.status, 201 | 429 | 503), "{reply:?}");
                    if reply.status == 201 {
                        assert!(
                            matches!(reply.json()["status"].as_str(), Some("succeeded" | "failed")),
                            "{reply:?}"
                        );
                    }
                }
            });
        }
    });
}

#[test]
fn a_key_that_stands_for_another_id_is_refused_and_never_an_error_of_the_server() {
    let host = Host::start();
    let version = host.actor();
    let body = json!({"version": version, "input": {"do": "echo"}}).to_string();
    let statuses = std::thread::scope(|scope| {
        let calls = (0..8).map(|n| {
            let (host, body) = (&host, &body);
            let path = format!("/v1/predictions/mine-{n}");
            scope.spawn(move || {
                host.send("PUT", &path, &[("idempotency-key", "one")], body.as_bytes())
                    .status
            })
        });
        let calls: Vec<_> = calls.collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(
        statuses.iter().filter(|status| **status == 201).count(),
        1,
        "{statuses:?}"
    );
    assert_eq!(
        statuses.iter().filter(|status| **status == 422).count(),
        7,
        "{statuses:?}"
    );
}

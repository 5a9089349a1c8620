//! The log of webhooks as callers see it. Deliveries are put into the database from outside, as the end of a prediction would.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

use common::Host;
use maquette_server::{Server, StartError};
use serde_json::{Value, json};

/// Puts a delivery that was given up into a server's database.
fn put(host: &Host, id: &str, owner: &str, url: &str, created_at: i64) {
    let connection = rusqlite::Connection::open(host.data().join("maquette.db")).unwrap();
    connection.busy_timeout(Duration::from_secs(10)).unwrap();
    connection
        .execute(
            "INSERT INTO webhook_deliveries (id, owner, prediction_id, url, target, event, body, state, attempts, next_at, last_status,
                 created_at, finished_at)
             VALUES (?1, ?2, 'p' || ?4, ?3, 'a:80', 'completed', '{\"id\":\"p\"}', 'dead', 7, 0, 500, ?4, ?5)",
            rusqlite::params![id, owner, url, created_at, i64::MAX],
        )
        .unwrap();
}

#[test]
fn an_owners_secret_is_the_owners_alone() {
    let host = Host::start();
    let secret = |token: &str| host.send_as(token, "GET", "/v1/webhooks/default/secret", &[], b"");
    let (me, you) = (host.token("me", &["predict"]), host.token("you", &["predict"]));
    let key = secret(&me).json()["key"].as_str().unwrap().to_owned();
    assert!(key.starts_with("whsec_") && key.matches('_').count() == 1, "{key}");
    assert_eq!(secret(&host.token("me", &["predict"])).json()["key"], key);
    assert_ne!(secret(&you).json()["key"], key);
    assert_eq!(secret(&host.token("me", &["read"])).status, 403);
}

#[test]
fn a_delivery_that_was_given_up_is_delivered_again_on_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, got) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut head = String::new();
        while reader.read_line(&mut head).unwrap() > 2 {}
        let mut body = vec![0; 10];
        reader.read_exact(&mut body).unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .unwrap();
        send.send((head.to_lowercase(), String::from_utf8(body).unwrap()))
            .unwrap();
    });
    let host = Host::with(|c| c.outbound_allow = vec![address.to_string()]);
    put(&host, "msg_a", "admin", &format!("http://{address}/hook"), 5);
    let seen = host.get("/v1/webhooks/deliveries/msg_a").json();
    assert_eq!(
        (&seen["state"], &seen["attempts"], &seen["last_status"]),
        (&json!("dead"), &json!(7), &json!(500))
    );
    assert_eq!(
        (&seen["body"], &seen["next_attempt_at"]),
        (&json!({"id": "p"}), &Value::Null)
    );
    let again = host.post("/v1/webhooks/deliveries/msg_a/redeliver", &json!({}));
    assert_eq!((again.status, &again.json()["id"]), (202, &json!("msg_a")));
    let (head, body) = got.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(
        head.starts_with("post /hook http/1.1")
            && head.contains("webhook-id: msg_a\r\n")
            && head.contains("webhook-signature: v1,")
    );
    assert_eq!(body, r#"{"id":"p"}"#);
    host.wait_for_metric("maquette_webhook_deliveries_total{outcome=\"delivered\"} 1");
    wait_for(&host, "msg_a", "delivered");
}

fn wait_for(host: &Host, id: &str, state: &str) -> Value {
    for _ in 0..1000 {
        let seen = host.get(&format!("/v1/webhooks/deliveries/{id}")).json();
        if seen["state"] == state {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{id} never was {state}");
}

#[test]
fn webhooks_do_not_reach_inside() {
    let host = Host::start();
    let inside = format!("http://{}/v1/models", host.address);
    for (id, url) in [
        ("msg_a", inside.as_str()),
        ("msg_b", "http://169.254.169.254/latest"),
        ("msg_c", "http://[::ffff:127.0.0.1]:8080/"),
    ] {
        put(&host, id, "admin", url, 5);
        assert_eq!(
            host.post(&format!("/v1/webhooks/deliveries/{id}/redeliver"), &json!({}))
                .status,
            202
        );
        let seen = wait_for(&host, id, "skipped");
        assert!(
            seen["last_error"].as_str().unwrap().contains("public addresses only"),
            "{seen}"
        );
    }
}

#[test]
fn deliveries_are_listed_for_their_owner_by_prediction_and_state() {
    let host = Host::start();
    for i in 0..101 {
        put(&host, &format!("msg_{i}"), "me", "http://a/", i);
    }
    put(&host, "msg_theirs", "you", "http://a/", 7);
    let me = host.token("me", &["read", "predict"]);
    let get = |path: &str| host.send_as(&me, "GET", path, &[], b"");
    let first = get("/v1/webhooks/deliveries?state=dead").json();
    assert_eq!(
        (first["results"].as_array().unwrap().len(), &first["results"][0]["id"]),
        (100, &json!("msg_100"))
    );
    let next = first["next"]
        .as_str()
        .unwrap()
        .strip_prefix("http://test.local")
        .unwrap();
    assert!(next.ends_with("&state=dead"), "{next}");
    assert_eq!(get(next).json()["results"][0]["id"], "msg_0");
    let one = get("/v1/webhooks/deliveries?prediction=p7").json();
    assert_eq!(
        (one["results"].as_array().unwrap().len(), &one["results"][0]["id"]),
        (1, &json!("msg_7"))
    );
    assert_eq!(
        get("/v1/webhooks/deliveries?state=pending").json()["results"],
        json!([])
    );
    assert_eq!(get("/v1/webhooks/deliveries?state=x").status, 400);
    assert_eq!(get("/v1/webhooks/deliveries/msg_theirs").status, 404);
    assert_eq!(
        host.send_as(&me, "POST", "/v1/webhooks/deliveries/msg_theirs/redeliver", &[], b"")
            .status,
        404
    );
    let reader = host.token("me", &["read"]);
    assert_eq!(
        host.send_as(&reader, "POST", "/v1/webhooks/deliveries/msg_1/redeliver", &[], b"")
            .status,
        403
    );
}

#[test]
fn an_exception_that_does_not_read_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = common::config(folder.path());
    config.outbound_allow = vec!["everything".to_owned()];
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(Server::start(config)).map(|_| ()).unwrap_err();
    assert!(
        matches!(&error, StartError::Setting(why) if why.contains("`everything`")),
        "{error}"
    );
}

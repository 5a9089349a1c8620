//! Webhooks against real receivers on loopback.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc as std_mpsc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::records::{NewDelivery, enqueue};
use super::*;
use crate::catalog::Catalog;

/// A request that a receiver got.
#[derive(Debug)]
struct Got {
    head: HashMap<String, String>,
    body: String,
}

/// A receiver that answers with these statuses in turn, the last one for ever; 0 stands for no answer at all.
fn receiver(statuses: &'static [u16]) -> (SocketAddr, std_mpsc::Receiver<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (send, got) = std_mpsc::channel();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for (i, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let status = statuses[i.min(statuses.len() - 1)];
            if status == 0 {
                silent.push(stream);
                continue;
            }
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut head = HashMap::new();
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                if let Some((name, value)) = std::mem::take(&mut line).trim().split_once(": ") {
                    head.insert(name.to_lowercase(), value.to_owned());
                }
            }
            let length = head.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = format!("HTTP/1.1 {status} X\r\nlocation: http://{address}/\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
            let body = String::from_utf8(body).unwrap();
            if send.send(Got { head, body }).is_err() {
                return;
            }
        }
    });
    (address, got)
}

struct Fixture {
    deliveries: Deliveries,
    tasks: Vec<JoinHandle<()>>,
    _folder: tempfile::TempDir,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let mut fixture = open(folder);
    fixture.tasks = fixture.deliveries.start();
    fixture
}

fn open(folder: tempfile::TempDir) -> Fixture {
    let store = Arc::new(Store::open(folder.path(), &Arc::new(Catalog::default())).unwrap());
    let config = Config {
        webhook_timeout: Duration::from_millis(1500),
        ..Config::default()
    };
    let outbound = Outbound::new(&["127.0.0.1".to_owned()]).unwrap();
    let secrets = Secrets::open(folder.path()).unwrap();
    Fixture {
        deliveries: Deliveries::new(&config, store, secrets, outbound, Arc::new(Metrics::new())),
        tasks: Vec::new(),
        _folder: folder,
    }
}

fn new(prediction: &str, url: &str) -> NewDelivery {
    NewDelivery {
        owner: "me".to_owned(),
        prediction_id: prediction.to_owned(),
        url: url.to_owned(),
        event: "completed",
        body: format!(r#"{{"id":"{prediction}"}}"#),
    }
}

impl Fixture {
    async fn put(&self, new: NewDelivery) -> String {
        let id = new.id();
        self.deliveries.store.write(move |c| enqueue(c, &new)).await.unwrap();
        id
    }

    async fn send(&self, prediction: &str, url: &str) -> String {
        let id = self.put(new(prediction, url)).await;
        self.deliveries.finished("me", prediction);
        id
    }

    /// Waits until a delivery is as it should be.
    async fn until(&self, id: &str, good: impl Fn(&Delivery) -> bool) -> Delivery {
        for _ in 0..1000 {
            let now = self.deliveries.get("me", id).await.unwrap();
            if good(&now) {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it never came: {:?}", self.deliveries.get("me", id).await);
    }

    /// Makes a pending delivery due now.
    async fn hurry(&self, id: &str) {
        self.deliveries.redeliver("me", id).await.unwrap();
    }
}

/// As a receiver checks it, from the secret's text and the headers alone.
fn verifies(secret: &str, got: &Got) -> bool {
    let key = STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(
        format!(
            "{}.{}.{}",
            got.head["webhook-id"], got.head["webhook-timestamp"], got.body
        )
        .as_bytes(),
    );
    let signature = STANDARD
        .decode(got.head["webhook-signature"].strip_prefix("v1,").unwrap())
        .unwrap();
    mac.verify_slice(&signature).is_ok()
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_prediction_arrives_signed() {
    let (address, got) = receiver(&[200]);
    let fixture = fixture();
    let id = fixture.send("p", &format!("http://{address}/hook?token=1")).await;
    let request = got.recv_timeout(LONG).unwrap();
    assert_eq!(
        (request.body.as_str(), &request.head["webhook-id"]),
        (r#"{"id":"p"}"#, &id)
    );
    assert_eq!(request.head["content-type"], "application/json");
    assert!(verifies(&fixture.deliveries.secret("me"), &request));
    assert!(!verifies(&fixture.deliveries.secret("you"), &request));
    let sent: i64 = request.head["webhook-timestamp"].parse().unwrap();
    assert!((now_ms() / 1000 - sent).abs() < 60);
    let done = fixture.until(&id, |d| d.state == "delivered").await;
    assert_eq!((done.attempts, done.last_status, done.last_error), (1, Some(200), None));
    // The same event again is the same message, and is not sent again.
    fixture.send("p", "http://127.0.0.1:1/").await;
    assert_eq!(fixture.deliveries.get("me", &id).await.unwrap().state, "delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_is_tried_again_later_under_the_same_id() {
    let (address, got) = receiver(&[500, 302, 200]);
    let fixture = fixture();
    let id = fixture.send("p", &format!("http://{address}/")).await;
    let first = fixture.until(&id, |d| d.attempts == 1).await;
    assert_eq!((first.state.as_str(), first.last_status), ("pending", Some(500)));
    assert!(first.next_at >= first.created_at + 5000, "{first:?}");
    fixture.hurry(&id).await;
    let second = fixture.until(&id, |d| d.attempts == 2).await;
    assert_eq!(
        (second.state.as_str(), second.last_status),
        ("pending", Some(302)),
        "redirects are not followed"
    );
    fixture.hurry(&id).await;
    fixture.until(&id, |d| d.state == "delivered" && d.attempts == 3).await;
    let ids: Vec<_> = (0..3)
        .map(|_| got.recv_timeout(LONG).unwrap().head["webhook-id"].clone())
        .collect();
    assert_eq!(ids, vec![id; 3]);
    assert!(got.try_recv().is_err(), "and nobody else was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_or_forbidden_is_not_tried_again() {
    let (address, _got) = receiver(&[410]);
    let fixture = fixture();
    let gone = fixture.send("gone", &format!("http://{address}/")).await;
    assert_eq!(fixture.until(&gone, |d| d.state == "dead").await.attempts, 1);
    for (prediction, url) in [
        ("inside", "http://10.0.0.1/"),
        ("nonsense", "nonsense"),
        ("metadata", "http://169.254.169.254/x?y=secret"),
    ] {
        let id = fixture.send(prediction, url).await;
        let skipped = fixture.until(&id, |d| d.state == "skipped").await;
        assert!(skipped.last_status.is_none() && !skipped.last_error.unwrap().contains("secret"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_receiver_holds_up_nobody_else() {
    let (dead, _never) = receiver(&[0]);
    let (alive, got) = receiver(&[200]);
    let fixture = fixture();
    for i in 0..200 {
        fixture.put(new(&format!("dead{i}"), &format!("http://{dead}/"))).await;
    }
    fixture.deliveries.wake();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut ids = Vec::new();
    for i in 0..20 {
        ids.push(fixture.send(&format!("alive{i}"), &format!("http://{alive}/")).await);
    }
    for id in &ids {
        fixture.until(id, |d| d.state == "delivered").await;
    }
    assert_eq!(got.iter().take(20).count(), 20);
    // The dead one was tried a few times at once, and the rest of its webhooks wait.
    let query = |c: &rusqlite::Connection| {
        c.query_row(
            "SELECT count(*) FROM webhook_deliveries WHERE attempts = 0 AND state = 'pending'",
            [],
            |row| row.get(0),
        )
    };
    let untouched: i64 = fixture.deliveries.store.read(query).await.unwrap();
    assert!(untouched >= 150, "{untouched}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_on_its_way_is_sent_after_a_restart() {
    let (address, got) = receiver(&[200]);
    let folder = tempfile::tempdir().unwrap();
    let before = open(folder);
    let id = before.put(new("p", &format!("http://{address}/"))).await;
    let again = Deliveries::new(
        &Config::default(),
        Arc::clone(&before.deliveries.store),
        before.deliveries.secrets.clone(),
        before.deliveries.outbound.clone(),
        Arc::clone(&before.deliveries.metrics),
    );
    let tasks = again.start();
    assert_eq!(got.recv_timeout(LONG).unwrap().head["webhook-id"], id);
    before.until(&id, |d| d.state == "delivered").await;
    assert!(again.start().is_empty(), "started once");
    tasks.iter().for_each(JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_before_the_end_are_told_once_and_in_order() {
    let (address, got) = receiver(&[500, 200]);
    let fixture = fixture();
    let url = format!("http://{address}/");
    for i in 0..4 {
        fixture
            .deliveries
            .tell("me", "p", &url, "output", format!("{{\"n\":{i}}}"));
    }
    let bodies: Vec<_> = (0..4).map(|_| got.recv_timeout(LONG).unwrap()).collect();
    assert!(bodies.iter().all(|got| verifies(&fixture.deliveries.secret("me"), got)));
    let bodies: Vec<_> = bodies.into_iter().map(|got| got.body).collect();
    assert_eq!(
        bodies,
        [r#"{"n":0}"#, r#"{"n":1}"#, r#"{"n":2}"#, r#"{"n":3}"#],
        "what failed is not repeated"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn telling_never_blocks_and_costs_bounded_memory() {
    let (dead, _never) = receiver(&[0]);
    let (address, got) = receiver(&[200]);
    let fixture = fixture();
    let deliveries = fixture.deliveries.clone();
    // From a thread of no runtime, as a lane is.
    let flood = std::thread::spawn(move || {
        for i in 0..20_000 {
            deliveries.tell(
                "me",
                &format!("p{}", i % 3),
                &format!("http://{dead}/"),
                "logs",
                "x".repeat(10_000),
            );
        }
    });
    tokio::task::spawn_blocking(move || flood.join().unwrap())
        .await
        .unwrap();
    assert!(fixture.deliveries.memory.available_permits() <= teller::MEMORY_KIB);
    tokio::time::sleep(Duration::from_millis(50)).await;
    fixture
        .deliveries
        .tell("you", "other", &format!("http://{address}/"), "start", "{}".to_owned());
    assert_eq!(got.recv_timeout(LONG).unwrap().body, "{}", "another owner is heard");
}

#[tokio::test]
async fn old_deliveries_are_forgotten_and_pending_ones_are_not() {
    let mut fixture = open(tempfile::tempdir().unwrap());
    let old = fixture.put(new("old", "http://127.0.0.1:1/")).await;
    let pending = fixture.put(new("pending", "http://127.0.0.1:1/")).await;
    let ended = old.clone();
    let end = move |c: &rusqlite::Connection| {
        records::attempted(c, &ended, &schedule::Verdict::Dead, None, Some("x"), now_ms() - 5000)
    };
    fixture.deliveries.store.write(end).await.unwrap();
    fixture.deliveries.sweep().await.unwrap();
    fixture.deliveries.get("me", &old).await.unwrap();
    fixture.deliveries.log = Duration::from_secs(1);
    fixture.deliveries.sweep().await.unwrap();
    assert!(fixture.deliveries.get("me", &old).await.is_err());
    fixture.deliveries.get("me", &pending).await.unwrap();
    assert!(
        fixture.deliveries.get("you", &pending).await.is_err(),
        "another owner's"
    );
    assert!(fixture.deliveries.redeliver("you", &pending).await.is_err());
}

#[tokio::test]
async fn due_deliveries_take_turns_between_owners_and_targets() {
    let fixture = open(tempfile::tempdir().unwrap());
    for i in 0..30 {
        let mut many = new(&format!("a{i}"), &format!("http://h{}.example/", i % 3));
        many.owner = "many".to_owned();
        fixture.put(many).await;
    }
    fixture.put(new("b", "https://h0.example/")).await;
    let due = fixture
        .deliveries
        .store
        .read(|c| records::due(c, now_ms() + 1, 2, 5, 100))
        .await
        .unwrap();
    let owners: Vec<_> = due.iter().map(|d| d.owner.as_str()).collect();
    assert_eq!(owners.iter().filter(|o| **o == "many").count(), 5);
    assert!(owners[..2].contains(&"me"), "{owners:?}");
    let to_one = due
        .iter()
        .filter(|d| d.owner == "many" && d.target == "h0.example:80")
        .count();
    assert_eq!(to_one, 2);
    let none = fixture
        .deliveries
        .store
        .read(|c| records::due(c, 0, 2, 5, 100))
        .await
        .unwrap();
    assert!(none.is_empty());
}

#[tokio::test]
async fn a_webhooks_url_is_checked_at_the_edge() {
    let fixture = open(tempfile::tempdir().unwrap());
    fixture.deliveries.check_url("https://example.org/hook").unwrap();
    for bad in [
        "",
        "hook",
        "ftp://example.org",
        "http://169.254.169.254/",
        "http://u:p@example.org/",
    ] {
        let body = fixture.deliveries.check_url(bad).unwrap_err().body();
        assert_eq!(
            (&body["status"], &body["errors"][0]["field"]),
            (&422.into(), &"webhook".into()),
            "{bad}"
        );
    }
}

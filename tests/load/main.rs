//! Measures a server that runs already. It is no test: it asserts nothing but that every reply is one.
//!
//! ```sh
//! cargo run --release -p maquette --example load -- --url http://127.0.0.1:4747 --token "$(cat DATA/admin.token)" \
//!     [--rate 1000] [--seconds 5] [--calls 2000] [--streams 1000] [--folder DIR]
//! ```
//!
//! It publishes two guests written as WebAssembly text (`me/worker`, `me/streamer`; the token has to allow that) and prints a JSON line
//! a figure:
//!
//! - `sync`: 32 KiB, as much as a prediction makes the database write, written over and synced to disk every millisecond in the folder (the
//!   current one, unless given), which should lie on the server's disk: the least that anything recorded can take.
//! - `create`: predictions that nobody waits for, so many a second, whatever becomes of them: from the request to the reply. `late` is how far behind
//!   its own plan this program sends, which the scheduler does to the server as well; the ratio is to a sync at the same percentile.
//! - `price_of_recording`: a prediction that is waited for beside the direct endpoint, in turns, on one connection each.
//! - `streams`: readers of four predictions' streams at once: from the opening of the first to the end of the last.
//!
//! Client and server share the machine: believe figures of an idle one, with a release build of both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
#![allow(dead_code, unreachable_pub, reason = "tests use more of what is shared with them")]

#[path = "../support/flood.rs"]
mod flood;
#[path = "../support/guests.rs"]
mod guests;
#[path = "../support/http.rs"]
mod http;

use std::io::{BufReader, Seek as _, SeekFrom, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use flood::{Flood, Pace, at_permille};
use http::Client;
use maquette_package::Digest;
use serde_json::{Value, json};

/// Connections over which predictions are created.
const CONNECTIONS: usize = 64;

/// Items of a stream that is measured.
const ITEMS: usize = 120;

struct Args {
    address: SocketAddr,
    token: String,
    rate: f64,
    seconds: u64,
    calls: usize,
    streams: usize,
    folder: PathBuf,
}

impl Args {
    fn read() -> Self {
        let mut args = Self {
            address: ([127, 0, 0, 1], 4747).into(),
            token: String::new(),
            rate: 1000.0,
            seconds: 5,
            calls: 2000,
            streams: 1000,
            folder: ".".into(),
        };
        let mut words = std::env::args().skip(1);
        while let Some(name) = words.next() {
            let value = words.next().unwrap_or_else(|| panic!("{name} needs a value"));
            match name.as_str() {
                "--url" => {
                    let host = value
                        .strip_prefix("http://")
                        .expect("a URL of the form http://HOST:PORT");
                    let found = host
                        .trim_end_matches('/')
                        .to_socket_addrs()
                        .expect("a host that is known");
                    args.address = found.into_iter().next().expect("a host with an address");
                }
                "--token" => args.token = value,
                "--rate" => args.rate = value.parse().expect("--rate is a number"),
                "--seconds" => args.seconds = value.parse().expect("--seconds is a number"),
                "--calls" => args.calls = value.parse().expect("--calls is a number"),
                "--folder" => args.folder = value.into(),
                "--streams" => args.streams = value.parse().expect("--streams is a number"),
                _ => panic!("{name} is not known; see the first lines of this file"),
            }
        }
        args
    }
}

fn main() {
    let args = Args::read();
    let worker = publish(&args, "worker", &guests::worker());
    let streamer = publish(&args, "streamer", &guests::streamer());
    let sync = sync(&args);
    create(&args, &worker, &sync);
    price(&args, &worker);
    streams(&args, &streamer);
}

/// Publishes a guest, or finds it published; the version's id.
fn publish(args: &Args, name: &str, component: &[u8]) -> String {
    let mut client = Client::new(args.address, &args.token);
    let digest = Digest::of(component).to_string();
    let sent = client
        .send("PUT", &format!("/v1/blobs/{digest}"), &[], component)
        .unwrap();
    assert!(matches!(sent.status, 200 | 201), "{}", sent.text());
    let manifest = json!({
        "schema": 1, "name": name, "version": "1.0.0", "limits": {"timeout_ms": 60_000},
        "component": {"sha256": digest, "size": component.len()},
    });
    let body = json!({"manifest": manifest, "aliases": ["latest"]});
    let reply = client.post(&format!("/v1/models/me/{name}/versions"), &body).unwrap();
    assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// How long syncs to disk take, sorted.
fn sync(args: &Args) -> Vec<Duration> {
    let mut file = tempfile::tempfile_in(&args.folder).expect("a folder that can be written to");
    let block = [7; 32 << 10];
    for _ in 0..256 {
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    let mut took: Vec<_> = (0..1000)
        .map(|n| {
            // A disk that rests takes longer than one that is asked again at once.
            std::thread::sleep(Duration::from_millis(1));
            file.seek(SeekFrom::Start(n % 256 * block.len() as u64)).unwrap();
            file.write_all(&block).unwrap();
            let began = Instant::now();
            file.sync_data().unwrap();
            began.elapsed()
        })
        .collect();
    took.sort_unstable();
    print(&json!({
        "what": "sync", "p50_ms": ms(at_permille(&took, 500)), "p99_ms": ms(at_permille(&took, 990)), "max_ms": ms(at_permille(&took, 1000)),
    }));
    took
}

fn create(args: &Args, version: &str, sync: &[Duration]) {
    let body = json!({"version": version, "input": {"a": "e000"}}).to_string();
    let request = http::request(&args.token, "POST", "/v1/predictions", &[], body.as_bytes());
    let done = Flood {
        address: args.address,
        connections: CONNECTIONS,
        pace: Pace::Open(args.rate),
        time: Duration::from_secs(args.seconds),
        request: &|_| request.clone(),
    }
    .run();
    let mut took: Vec<_> = done
        .iter()
        .filter(|done| done.status == 201)
        .map(|done| done.took)
        .collect();
    took.sort_unstable();
    let mut late: Vec<_> = done.iter().map(|done| done.late).collect();
    late.sort_unstable();
    let ratio = |permille| at_permille(&took, permille).as_secs_f64() / at_permille(sync, permille).as_secs_f64();
    let last = done.iter().map(|done| done.at).max().unwrap_or_default();
    print(&json!({
        "what": "create", "asked_per_s": args.rate, "sent_per_s": done.len() as f64 / last.as_secs_f64(),
        "created": took.len(), "refused": done.iter().filter(|done| matches!(done.status, 429 | 503)).count(),
        "p50_ms": ms(at_permille(&took, 500)), "p99_ms": ms(at_permille(&took, 990)), "max_ms": ms(at_permille(&took, 1000)),
        "late_p50_ms": ms(at_permille(&late, 500)), "late_p99_ms": ms(at_permille(&late, 990)),
        "p50_over_sync": ratio(500), "p99_over_sync": ratio(990),
    }));
    settle(args);
}

/// Waits until nothing runs.
fn settle(args: &Args) {
    let mut client = Client::new(args.address, &args.token);
    loop {
        let open = client.get("/v1/predictions?status=starting&limit=1").unwrap().json();
        if open["results"].as_array().is_none_or(Vec::is_empty) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn price(args: &Args, version: &str) {
    let mut direct = Client::new(args.address, &args.token);
    let mut recorded = Client::new(args.address, &args.token);
    let input = br#"{"a":"e000"}"#;
    let body = json!({"version": version, "input": {"a": "e000"}}).to_string();
    let run = format!("/v1/models/me/worker/versions/{version}/run");
    let (mut plain, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..args.calls {
        let began = Instant::now();
        let reply = direct.send("POST", &run, &[], input).unwrap();
        plain.push(began.elapsed());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let began = Instant::now();
        let reply = recorded
            .send("POST", "/v1/predictions", &[("prefer", "wait")], body.as_bytes())
            .unwrap();
        kept.push(began.elapsed());
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
    plain.sort_unstable();
    kept.sort_unstable();
    let median = |sorted: &[Duration]| ms(at_permille(sorted, 500));
    print(&json!({
        "what": "price_of_recording", "calls": args.calls, "direct_p50_ms": median(&plain), "waited_p50_ms": median(&kept),
        "difference_ms": median(&kept) - median(&plain),
        "direct_p99_ms": ms(at_permille(&plain, 990)), "waited_p99_ms": ms(at_permille(&kept, 990)),
    }));
}

fn streams(args: &Args, version: &str) {
    let mut client = Client::new(args.address, &args.token);
    let paths: Vec<String> = (0..4)
        .map(|n| {
            let body = json!({"version": version, "input": {"a": format!("s{ITEMS:03}-{n}")}});
            let made: Value = client.post("/v1/predictions", &body).unwrap().json();
            let url = made["urls"]["stream"].as_str().expect("a stream").to_owned();
            let (_, rest) = url.split_once("://").expect("an absolute URL");
            rest[rest.find('/').expect("a path")..].to_owned()
        })
        .collect();
    let began = Instant::now();
    let mut open = Vec::with_capacity(args.streams);
    for n in 0..args.streams {
        let mut stream = http::connect(args.address).expect("more files: ulimit -n");
        let request = http::request("", "GET", &paths[n % paths.len()], &[], b"");
        stream.write_all(&request).unwrap();
        open.push(BufReader::with_capacity(1024, stream));
    }
    let opened = began.elapsed();
    let mut events = 0;
    for mut stream in open {
        let mut text = http::receive(&mut stream).unwrap().text();
        let told = http::take_events(&mut text);
        assert_eq!(told.iter().filter(|event| event.name == "output").count(), ITEMS);
        events += told.len();
    }
    print(&json!({
        "what": "streams", "streams": args.streams, "events": events, "opened_ms": ms(opened), "read_ms": ms(began.elapsed()),
    }));
}

fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn print(figure: &Value) {
    println!("{figure}");
}

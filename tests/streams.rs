//! Streams: many readers each get every event once and the end, a stream that is cut anywhere goes on where it was cut, and ten
//! thousand of them leave the server answering.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::guests;
use support::http::{self, Client, Event};
use support::random::{Random, seed, setting};
use support::serve::Serve;

/// Items of each prediction here, and lines of its log.
const ITEMS: usize = 120;
const LINES: usize = ITEMS / 10;

struct Host {
    serve: Serve,
    version: String,
    _folder: tempfile::TempDir,
}

fn host(args: &[&str]) -> Host {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::start(&folder.path().join("data"), args);
    let version = serve.publish("streamer", &guests::streamer(), 600_000);
    Host {
        serve,
        version,
        _folder: folder,
    }
}

/// Begins a prediction; its id and the path of its stream.
fn begin(client: &mut Client, version: &str, items: usize, nonce: usize) -> (String, String) {
    let body = json!({"version": version, "input": {"a": format!("s{items:03}-{nonce}")}});
    let made = client.post("/v1/predictions", &body).unwrap().json();
    let url = made["urls"]["stream"].as_str().unwrap();
    let path = url.strip_prefix("http://test.local").unwrap().to_owned();
    (made["id"].as_str().unwrap().to_owned(), path)
}

/// A stream that is being read.
struct Reader {
    stream: BufReader<TcpStream>,
    text: String,
}

impl Reader {
    fn open(address: SocketAddr, path: &str, from: Option<&str>) -> Self {
        let mut stream = BufReader::with_capacity(1024, http::connect(address).unwrap());
        ask(stream.get_mut(), path, from);
        let (status, headers) = http::receive_head(&mut stream).unwrap();
        assert_eq!(status, 200, "{headers:?}");
        Self {
            stream,
            text: String::new(),
        }
    }

    /// The next events; nothing at the end.
    fn next(&mut self) -> Option<Vec<Event>> {
        let piece = http::chunk(&mut self.stream).unwrap()?;
        self.text.push_str(std::str::from_utf8(&piece).unwrap());
        Some(http::take_events(&mut self.text))
    }

    fn rest(mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(more) = self.next() {
            events.extend(more);
        }
        assert_eq!(self.text, "", "nothing is cut off");
        events
    }
}

fn ask(stream: &mut TcpStream, path: &str, from: Option<&str>) {
    let headers: Vec<_> = from.map(|id| ("last-event-id", id)).into_iter().collect();
    stream
        .write_all(&http::request("", "GET", path, &headers, b""))
        .unwrap();
}

/// Every item and every line of the log came once and in order, and then the end.
fn check_whole(events: &[Event], items: usize) {
    let of = |name: &str| {
        let lines = events
            .iter()
            .filter(|event| event.name == name)
            .flat_map(|event| event.data.lines());
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let expected: Vec<_> = (1000..1000 + items).map(|n| n.to_string()).collect();
    assert_eq!(of("output"), expected);
    let expected: Vec<_> = (1000..1000 + items).step_by(10).map(|n| format!("line {n}")).collect();
    assert_eq!(of("logs"), expected);
    let ends: Vec<_> = events.iter().filter(|event| event.name == "done").collect();
    assert_eq!(
        (ends.len(), events.last()),
        (1, ends.first().copied()),
        "one end, at the end"
    );
    assert_eq!(ends[0].data, "{}");
}

#[test]
fn a_thousand_readers_each_get_every_event_once_and_the_end() {
    let streams = setting("MAQUETTE_STREAMS", 1000);
    let host = host(&["--lanes", "2"]);
    let mut client = host.serve.client();
    // Two run while they are read, two wait for a lane.
    let paths: Vec<String> = (0..4).map(|n| begin(&mut client, &host.version, ITEMS, n).1).collect();
    let started = Instant::now();
    let readers: Vec<Reader> = (0..streams)
        .map(|n| Reader::open(host.serve.address, &paths[n % paths.len()], None))
        .collect();
    let opened = started.elapsed();
    // The readers are slower than the server: what they do not read yet is not lost.
    for reader in readers {
        check_whole(&reader.rest(), ITEMS);
    }
    println!(
        "{streams} streams of 4 predictions, {} events each: opened in {opened:.1?}, read whole after {:.1?}",
        ITEMS + LINES + 1,
        started.elapsed()
    );
}

#[test]
fn a_stream_that_is_cut_anywhere_goes_on_where_it_was_cut() {
    let seed = seed();
    println!("MAQUETTE_SEED={seed}");
    let host = host(&["--lanes", "2"]);
    let mut client = host.serve.client();
    for round in 0..3 {
        let (id, path) = begin(&mut client, &host.version, ITEMS, round);
        let readers = 16;
        std::thread::scope(|scope| {
            for reader in 0..readers {
                let (path, address) = (&path, host.serve.address);
                let mut random = Random::new(seed ^ (round * readers + reader + 1) as u64);
                scope.spawn(move || {
                    let all = read_with_cuts(address, path, &mut random);
                    check_whole(&all, ITEMS);
                });
            }
        });
        let ended = client.get(&format!("/v1/predictions/{id}")).unwrap().json();
        let expected: Vec<_> = (1000..1000 + ITEMS).map(Value::from).collect();
        assert_eq!(ended["output"], Value::from(expected));
        assert_eq!(ended["logs"].as_str().unwrap().lines().count(), LINES);
        // What has ended is read in the same way.
        let mut random = Random::new(seed ^ 77 ^ round as u64);
        check_whole(&read_with_cuts(host.serve.address, &path, &mut random), ITEMS);
    }
}

#[test]
fn a_stream_goes_on_where_it_was_cut_after_the_server_has_restarted() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut serve = Serve::start(&data, &["--lanes", "2"]);
    let version = serve.publish("streamer", &guests::streamer(), 60_000);
    let (_, path) = begin(&mut serve.client(), &version, ITEMS, 0);
    let whole = Reader::open(serve.address, &path, None).rest();
    check_whole(&whole, ITEMS);
    serve.stop();
    let serve = Serve::start(&data, &["--lanes", "2"]);
    for cut in [0, 1, ITEMS / 2, whole.len() - 2] {
        let mut events = whole[..=cut].to_vec();
        events.extend(Reader::open(serve.address, &path, Some(&whole[cut].id)).rest());
        check_whole(&events, ITEMS);
    }
    check_whole(&Reader::open(serve.address, &path, None).rest(), ITEMS);
}

/// Reads a stream to its end, hanging up now and then in the middle of an event or behind one.
fn read_with_cuts(address: SocketAddr, path: &str, random: &mut Random) -> Vec<Event> {
    let mut all: Vec<Event> = Vec::new();
    for _ in 0..random.below(12) {
        let last = all.last().map(|event| event.id.clone());
        let mut reader = Reader::open(address, path, last.as_deref());
        for _ in 0..random.below(20) {
            let Some(events) = reader.next() else {
                return all;
            };
            // A client that goes away has read no further than it knows.
            let read = random.below(events.len() + 1);
            all.extend_from_slice(&events[..read]);
            if all.last().is_some_and(|event| event.name == "done") {
                return all;
            }
            if read < events.len() {
                break;
            }
        }
    }
    let last = all.last().map(|event| event.id.clone());
    all.extend(Reader::open(address, path, last.as_deref()).rest());
    all
}

#[test]
fn ten_thousand_open_streams_leave_the_server_answering_and_its_memory_bounded() {
    let wanted = setting("MAQUETTE_IDLE_STREAMS", 10_000);
    let limit = raise_file_limit();
    let streams = wanted.min(limit.saturating_sub(200));
    // Three quarters of the connections are for streams.
    let (connections, each) = ((streams * 4 / 3 + 100).to_string(), streams.to_string());
    let host = host(&[
        "--lanes",
        "1",
        "--connections",
        &connections,
        "--streams-per-owner",
        &each,
    ]);
    let mut client = host.serve.client();
    let worker = host.serve.publish("worker", &guests::worker(), 600_000);
    // A prediction that runs and says nothing.
    let body = json!({"version": worker, "input": {"a": "l000"}});
    let made = client.post("/v1/predictions", &body).unwrap().json();
    let path = made["urls"]["stream"]
        .as_str()
        .unwrap()
        .strip_prefix("http://test.local")
        .unwrap();
    let before = host.serve.memory_kib("VmRSS");
    let started = Instant::now();
    let mut open = Vec::with_capacity(streams);
    for _ in 0..streams {
        let mut stream = BufReader::with_capacity(512, http::connect(host.serve.address).unwrap());
        ask(stream.get_mut(), path, None);
        open.push(stream);
    }
    for stream in &mut open {
        assert_eq!(http::receive_head(stream).unwrap().0, 200);
    }
    let opened = started.elapsed();
    let after = host.serve.memory_kib("VmRSS");
    let asked = Instant::now();
    let reply = host.serve.client().get("/v1/predictions").unwrap();
    assert_eq!(reply.status, 200, "whoever comes is answered");
    let took = asked.elapsed();
    let one_more = host.serve.client().get(path).unwrap();
    assert_eq!(one_more.status, 429, "{}", one_more.text());
    assert!(one_more.header("retry-after").is_some());
    let each = after.saturating_sub(before) * 1024 / streams as u64;
    println!(
        "{streams} streams open after {opened:.1?}: {each} bytes of memory each ({before} KiB before, {after} KiB after); \
         a reply took {took:.1?}"
    );
    assert!(each < 64 << 10, "{each} bytes a stream");
    // The end reaches all of them.
    let cancel = format!("/v1/predictions/{}/cancel", made["id"].as_str().unwrap());
    assert_eq!(host.serve.client().post(&cancel, &json!({})).unwrap().status, 200);
    for mut stream in open {
        let mut text = String::new();
        while let Ok(Some(piece)) = http::chunk(&mut stream) {
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        let events = http::take_events(&mut text);
        let end = events.last().unwrap();
        assert_eq!(
            (end.name.as_str(), end.data.as_str()),
            ("done", r#"{"reason":"canceled"}"#)
        );
    }
    println!("most memory ever: {} KiB", host.serve.memory_kib("VmHWM"));
}

#[test]
fn when_all_connections_are_busy_clients_wait_until_one_leaves() {
    let host = host(&["--lanes", "1", "--connections", "20"]);
    let worker = host.serve.publish("worker", &guests::worker(), 600_000);
    // Each waits for an end that never comes.
    let body = json!({"version": worker, "input": {"a": "l000"}}).to_string();
    let wait = [("prefer", "wait")];
    let call = http::request(&host.serve.token, "POST", "/v1/predictions", &wait, body.as_bytes());
    let open: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = http::connect(host.serve.address).unwrap();
            stream.write_all(&call).unwrap();
            stream
        })
        .collect();
    let mut late = http::connect(host.serve.address).unwrap();
    late.write_all(&http::request(&host.serve.token, "GET", "/healthz", &[], b""))
        .unwrap();
    late.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut late = BufReader::new(late);
    assert!(http::receive(&mut late).is_err(), "there is no room for it yet");
    drop(open);
    late.get_mut().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(http::receive(&mut late).unwrap().status, 200);
}

/// Files that this process may have open.
fn raise_file_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    limit.maximum.map_or(usize::MAX, |most| usize::try_from(most).unwrap())
}

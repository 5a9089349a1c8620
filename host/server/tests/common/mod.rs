//! What the tests of the HTTP API share: a server in a temporary folder, a small client on plain sockets, and one guest that
//! does what its input says.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use maquette_package::Digest;
use maquette_server::{Config, PrepareCommand, Server};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// A running server and the client's credentials for it.
pub struct Host {
    pub address: SocketAddr,
    pub token: String,
    pub runtime: Runtime,
    pub server: Option<Server>,
    pub folder: Option<tempfile::TempDir>,
}

/// The settings of test servers in `data`.
pub fn config(data: &Path) -> Config {
    Config {
        data: data.to_owned(),
        bind: ([127, 0, 0, 1], 0).into(),
        lanes: 2,
        drain: Duration::from_secs(10),
        prepare: PrepareCommand {
            program: PathBuf::from(env!("CARGO_BIN_EXE_maquette-prepare")),
            args: Vec::new(),
            ..PrepareCommand::default()
        },
        ..Config::default()
    }
}

impl Host {
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path());
        change(&mut config);
        let mut host = Self::open(config);
        host.folder = Some(folder);
        host
    }

    pub fn open(config: Config) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let server = runtime.block_on(Server::start(config)).unwrap();
        let (address, token) = (server.address(), server.admin_token().to_owned());
        Self {
            address,
            token,
            runtime,
            server: Some(server),
            folder: None,
        }
    }

    /// Stops the server gracefully and hands its folder over.
    pub fn stop(mut self) -> Option<tempfile::TempDir> {
        self.runtime.block_on(self.server.take().unwrap().stop());
        self.folder.take()
    }

    pub fn data(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    pub fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.to_string().as_bytes(),
        )
    }

    pub fn put(&self, path: &str, body: &[u8]) -> Reply {
        self.send("PUT", path, &[], body)
    }

    /// A request with the admin token.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.send_as(&self.token, method, path, headers, body)
    }

    pub fn send_as(&self, token: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let authorization = format!("Bearer {token}");
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend(headers);
        exchange(self.address, method, path, &all, body)
    }

    /// Makes a token.
    pub fn token(&self, owner: &str, scopes: &[&str]) -> String {
        let reply = self.post(
            "/v1/tokens",
            &json!({"owner": owner, "scopes": scopes, "label": "a test"}),
        );
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["token"].as_str().unwrap().to_owned()
    }

    /// Sends a blob, returns its reference for a manifest.
    pub fn blob(&self, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes).to_string();
        let reply = self.put(&format!("/v1/blobs/{digest}"), bytes);
        assert!(matches!(reply.status, 200 | 201), "{reply:?}");
        json!({"sha256": digest, "size": bytes.len()})
    }

    /// Publishes a component as `me/NAME`.
    pub fn publish(&self, name: &str, number: &str, component: &[u8], aliases: &[&str]) -> Reply {
        let manifest = self.manifest(name, number, component);
        self.post(
            &format!("/v1/models/me/{name}/versions"),
            &json!({"manifest": manifest, "aliases": aliases}),
        )
    }

    pub fn manifest(&self, name: &str, number: &str, component: &[u8]) -> Value {
        json!({"schema": 1, "name": name, "version": number, "component": self.blob(component), "limits": {"timeout_ms": 5000}})
    }

    /// Publishes [`actor`] as `me/actor` and returns its id.
    pub fn actor(&self) -> String {
        let reply = self.publish("actor", "1.0.0", &actor(), &["latest"]);
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// Publishes [`actor`] as `me/patient`, which may take as long as a test does, and returns its id.
    pub fn patient(&self) -> String {
        let mut manifest = self.manifest("patient", "1.0.0", &actor());
        manifest["limits"]["timeout_ms"] = 600_000.into();
        let reply = self.post("/v1/models/me/patient/versions", &json!({"manifest": manifest}));
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    pub fn run(&self, input: &Value) -> Reply {
        self.post("/v1/models/me/actor/run", input)
    }

    /// Waits until a line of the metrics is there.
    pub fn wait_for_metric(&self, line: &str) {
        for _ in 0..1000 {
            if self.get("/metrics").text().lines().any(|l| l == line) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("`{line}` never came:\n{}", self.get("/metrics").text());
    }
}

/// A response.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// The `detail` of a problem, after checking that it is one.
    pub fn problem(&self) -> String {
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json"),
            "{self:?}"
        );
        let body = self.json();
        assert_eq!(body["status"], self.status);
        assert!(body["title"].is_string() && body["code"].is_string(), "{body}");
        body["detail"].as_str().unwrap().to_owned()
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// One request on a connection of its own.
pub fn exchange(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let mut stream = connect(address);
    let mut all = vec![("connection", "close")];
    all.extend(headers);
    let length = body.len().to_string();
    if !body.is_empty() || method != "GET" {
        all.push(("content-length", &length));
    }
    stream.write_all(&head(method, path, &all)).unwrap();
    // A server that refuses early does not read it all.
    let _ = stream.write_all(body);
    receive(&mut BufReader::new(stream))
}

pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: test.local\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Reads one response.
pub fn receive(stream: &mut BufReader<TcpStream>) -> Reply {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let status = line
        .split(' ')
        .nth(1)
        .unwrap_or_else(|| panic!("no status in {line:?}"))
        .parse()
        .unwrap();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
    let mut reply = Reply {
        status,
        headers,
        body: Vec::new(),
    };
    if let Some(length) = reply.header("content-length") {
        reply.body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut reply.body).unwrap();
    } else if reply.header("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let mut piece = vec![0; size + 2];
            stream.read_exact(&mut piece).unwrap();
            if size == 0 {
                break;
            }
            reply.body.extend_from_slice(&piece[..size]);
        }
    }
    reply
}

/// The input schema of [`actor`].
pub const ACTOR_INPUT: &str = r#"{"type":"object","additionalProperties":false,"required":["do"],"properties":{
    "do":{"type":"string","enum":["echo","trap","loop","grow","invalid","shape","big","many","wait","xjson","never"]},
    "file":{"type":"string","format":"uri"},
    "n":{"type":"integer","minimum":0,"maximum":10,"default":3},
    "text":{"anyOf":[{"type":"string","minLength":1},{"type":"array","minItems":1,"maxItems":64,"items":{"type":"string"}}]}}}"#;

/// A guest that does what the first letter of `do`, its input's first field, says.
pub fn actor() -> Vec<u8> {
    maquette_fixtures::component_with_schemas(
        r#"
  (import "maquette:model/run@0.1.0" "emit" (func $emit (param i32 i32 i32)))
  (import "maquette:model/run@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "maquette:model/run@0.1.0" "progress" (func $progress (param f64 i32 i32)))
  (import "maquette:model/run@0.1.0" "remaining-ms" (func $remaining (result i64)))"#,
        r#"
  (data (i32.const 4096) "[1,2,3]")
  (data (i32.const 4112) "the guest says no")
  (data (i32.const 4144) "half way")
  (func $fail (param $code i32) (result i32) (local $ret i32)
    (local.set $ret (call $alloc (i32.const 16)))
    (i32.store (local.get $ret) (i32.const 1))
    (i32.store8 offset=4 (local.get $ret) (local.get $code))
    (i32.store offset=8 (local.get $ret) (i32.const 4112))
    (i32.store offset=12 (local.get $ret) (i32.const 17))
    (local.get $ret))
  (func $predict (param $p i32) (param $n i32) (result i32) (local $do i32) (local $ret i32) (local $start i64)
    (local.set $do (i32.load8_u offset=7 (local.get $p)))
    (if (i32.eq (local.get $do) (i32.const 116)) (then unreachable))
    (if (i32.eq (local.get $do) (i32.const 108)) (then (loop $forever (br $forever))))
    (if (i32.eq (local.get $do) (i32.const 103)) (then
      (loop $more (br_if $more (i32.ge_s (memory.grow (i32.const 1024)) (i32.const 0))))
      unreachable))
    (if (i32.eq (local.get $do) (i32.const 105)) (then (return (call $fail (i32.const 0)))))
    (if (i32.eq (local.get $do) (i32.const 115)) (then (return (call $fail (i32.const 1)))))
    (if (i32.eq (local.get $do) (i32.const 98)) (then
      (return (call $ok (call $alloc (i32.const 9437184)) (i32.const 9437184)))))
    (if (i32.eq (local.get $do) (i32.const 120)) (then (return (call $ok (i32.const 4096) (i32.const 3)))))
    (if (i32.eq (local.get $do) (i32.const 119)) (then
      (local.set $start (call $remaining))
      (loop $wait (br_if $wait
        (i64.lt_s (i64.sub (local.get $start) (call $remaining)) (i64.const 300))))))
    (if (i32.eq (local.get $do) (i32.const 110)) (then
      (call $log (i32.const 1) (i32.const 4144) (i32.const 8))
      (call $emit (i32.const 4097) (i32.const 1) (call $alloc (i32.const 16)))
      (loop $on (br $on))))
    (if (i32.eq (local.get $do) (i32.const 109)) (then
      (local.set $ret (call $alloc (i32.const 16)))
      (call $log (i32.const 1) (i32.const 4144) (i32.const 8))
      (call $emit (i32.const 4097) (i32.const 1) (local.get $ret))
      (call $progress (f64.const 0.5) (i32.const 4144) (i32.const 8))
      (call $emit (i32.const 4099) (i32.const 1) (local.get $ret))
      (return (call $ok (i32.const 4096) (i32.const 7)))))
    (call $ok (local.get $p) (local.get $n)))"#,
        &ACTOR_INPUT.replace('\n', ""),
        r#"{"x-cog-array-type":"iterator"}"#,
    )
}

//! Files as callers send, see and get them, on real sockets.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use common::{Host, Reply, config, connect, exchange, head, receive};
use serde_json::{Value, json};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\n--not-a-boundary\r\n\0\xff";

/// A form as bytes: heads of parts, with their bodies.
fn form(boundary: &str, parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, bytes) in parts {
        body.extend_from_slice(format!("--{boundary}\r\n{head}\r\n\r\n").as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    body
}

fn post_as(host: &Host, token: &str, boundary: &str, parts: &[(&str, &[u8])]) -> Reply {
    let content_type = format!("multipart/form-data; boundary={boundary}");
    host.send_as(
        token,
        "POST",
        "/v1/files",
        &[("content-type", &content_type)],
        &form(boundary, parts),
    )
}

fn post(host: &Host, parts: &[(&str, &[u8])]) -> Reply {
    post_as(host, &host.token, "xyz", parts)
}

const CONTENT: &str =
    "Content-Disposition: form-data; name=\"content\"; filename=\"a.bin\"\r\nContent-Type: application/octet-stream";

fn upload(host: &Host, bytes: &[u8]) -> Value {
    let reply = post(host, &[(CONTENT, bytes)]);
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()
}

/// The path of a URL of the test server.
fn path(url: &Value) -> String {
    url.as_str()
        .unwrap()
        .strip_prefix("http://test.local")
        .unwrap()
        .to_owned()
}

fn kept(data: &Path) -> usize {
    fn count(folder: &Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries
            .map(|e| {
                if e.file_type().unwrap().is_dir() {
                    count(&e.path())
                } else {
                    1
                }
            })
            .sum()
    }
    count(&data.join("files"))
}

fn wait_until(what: &str, good: impl Fn() -> bool) {
    for _ in 0..1000 {
        if good() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came: {what}");
}

#[test]
fn every_clients_way_of_sending_a_file_is_understood() {
    let host = Host::start();
    // Python 1.x: metadata as a field of JSON text, before the file.
    let python = post_as(
        &host,
        &host.token,
        "0a1b2c3d4e5f60718293a4b5c6d7e8f9",
        &[
            (
                "Content-Disposition: form-data; name=\"metadata\"",
                br#"{"customer": 7}"#,
            ),
            (
                "Content-Disposition: form-data; name=\"content\"; filename=\"cat.png\"\r\nContent-Type: image/png",
                PNG,
            ),
        ],
    );
    assert_eq!(python.status, 201, "{python:?}");
    let file = python.json();
    assert_eq!(
        (&file["name"], &file["content_type"], &file["size"]),
        (&json!("cat.png"), &json!("image/png"), &json!(PNG.len()))
    );
    assert_eq!(file["metadata"], json!({"customer": 7}));
    // Python 2.x: bracketed metadata, name and type as fields.
    let python = post_as(
        &host,
        &host.token,
        "00ff",
        &[
            ("Content-Disposition: form-data; name=\"filename\"", b"dog.jpg"),
            ("Content-Disposition: form-data; name=\"metadata[customer]\"", b"7"),
            ("Content-Disposition: form-data; name=\"metadata[deep][er]\"", b"8"),
            ("Content-Disposition: form-data; name=\"type\"", b"image/jpeg"),
            (
                "Content-Disposition: form-data; name=\"content\"; filename=\"upload\"\r\nContent-Type: application/octet-stream",
                PNG,
            ),
        ],
    );
    let file = python.json();
    assert_eq!(
        (&file["name"], &file["content_type"]),
        (&json!("dog.jpg"), &json!("image/jpeg")),
        "{file}"
    );
    assert_eq!(file["metadata"], json!({"customer": "7", "deep": {"er": "8"}}));
    // JavaScript: metadata as a file of JSON, always there.
    let javascript = post_as(
        &host,
        &host.token,
        "----formdata-undici-012345678901",
        &[
            (
                "Content-Disposition: form-data; name=\"content\"; filename=\"blob_1700000000000\"\r\nContent-Type: application/octet-stream",
                PNG,
            ),
            (
                "Content-Disposition: form-data; name=\"metadata\"; filename=\"blob\"\r\nContent-Type: application/json",
                b"{}",
            ),
        ],
    );
    let file = javascript.json();
    assert_eq!(
        (javascript.status, &file["name"], &file["metadata"]),
        (201, &json!("blob_1700000000000"), &json!({}))
    );
    // What the clients' parsers ask for.
    for required in ["id", "name", "content_type", "etag", "created_at", "expires_at"] {
        assert!(file[required].is_string(), "{required}: {file}");
    }
    assert!(
        file["checksums"]["sha256"].is_string() && file["checksums"]["md5"].is_string(),
        "{file}"
    );
    assert!(
        file["urls"].as_object().unwrap().values().all(Value::is_string),
        "{file}"
    );
    assert_eq!(file["id"].as_str().unwrap().len(), 26);
    let seen = host.get(&path(&file["urls"]["get"]));
    assert_eq!((seen.status, seen.json()), (200, file.clone()));
    let bytes = host.get(&path(&file["urls"]["download"]));
    assert_eq!((bytes.status, bytes.body.as_slice()), (200, PNG));
}

#[test]
fn forms_that_make_no_sense_are_refused_in_words() {
    let host = Host::start();
    let metadata = "Content-Disposition: form-data; name=\"metadata\"";
    let name = "Content-Disposition: form-data; name=\"filename\"";
    let long = "x".repeat(256);
    for (parts, word) in [
        (vec![(metadata, &b"{}"[..])], "no part `content`"),
        (vec![(CONTENT, PNG), (CONTENT, PNG)], "two parts"),
        (
            vec![(CONTENT, PNG), (metadata, b"[1]")],
            "`metadata` is not a JSON object",
        ),
        (vec![(CONTENT, PNG), (name, long.as_bytes())], "more than 255 bytes"),
        (vec![(CONTENT, PNG), (metadata, b"\xff")], "not UTF-8"),
    ] {
        let reply = post(&host, &parts);
        assert!(reply.status == 422 && reply.problem().contains(word), "{reply:?}");
    }
    let json = host.post("/v1/files", &json!({}));
    assert!(
        json.status == 415 && json.problem().contains("multipart/form-data"),
        "{json:?}"
    );
    let cut = host.send(
        "POST",
        "/v1/files",
        &[("content-type", "multipart/form-data; boundary=xyz")],
        b"--xyz\r\nContent-Dispo",
    );
    assert_eq!(cut.status, 400, "{cut:?}");
    // A part whose head never ends is not collected.
    let endless = format!(
        "--xyz\r\nContent-Disposition: form-data; name=\"content\"; filename=\"{}",
        "x".repeat(2 << 20)
    );
    let reply = host.send(
        "POST",
        "/v1/files",
        &[("content-type", "multipart/form-data; boundary=xyz")],
        endless.as_bytes(),
    );
    assert!(
        reply.status == 422 && reply.problem().contains("too long a head"),
        "{reply:?}"
    );
    wait_until("removal", || kept(host.data()) == 0);
}

#[test]
fn a_file_that_is_too_large_is_refused_announced_or_not() {
    let host = Host::with(|c| c.max_file_bytes = 5 << 20);
    upload(&host, &vec![7; 5 << 20]);
    let reply = post(&host, &[(CONTENT, &vec![7; (5 << 20) + 1])]);
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (413, "Files must be less than 5MB in size")
    );
    let authorization = format!("Bearer {}", host.token);
    let all = [
        ("authorization", authorization.as_str()),
        ("content-type", "multipart/form-data; boundary=xyz"),
        ("content-length", "99999999999"),
    ];
    let mut stream = connect(host.address);
    stream.write_all(&head("POST", "/v1/files", &all)).unwrap();
    let reply = receive(&mut BufReader::new(stream));
    assert_eq!(reply.status, 413, "{reply:?}");
    wait_until("removal", || kept(host.data()) == 1);
}

#[test]
fn files_of_others_are_as_if_they_were_not() {
    let host = Host::start();
    let file = upload(&host, PNG);
    let id = file["id"].as_str().unwrap();
    let other = host.token("other", &["read", "predict"]);
    for method in ["GET", "DELETE"] {
        let theirs = host.send_as(&other, method, &format!("/v1/files/{id}"), &[], b"");
        let nobodys = host.send_as(&other, method, &format!("/v1/files/{}", "a".repeat(26)), &[], b"");
        assert_eq!((theirs.status, &theirs.body), (404, &nobodys.body));
        assert_eq!(theirs.problem(), "File not found");
    }
    let list = host.send_as(&other, "GET", "/v1/files", &[], b"").json();
    assert_eq!(list, json!({"next": null, "previous": null, "results": []}));
    assert_eq!(host.get("/v1/files").json()["results"][0]["id"], id);
    // A token that only reads may look, but neither send nor remove; one that only predicts may do both.
    let (reader, caller) = (host.token("admin", &["read"]), host.token("admin", &["predict"]));
    assert_eq!(
        host.send_as(&reader, "GET", &format!("/v1/files/{id}"), &[], b"")
            .status,
        200
    );
    assert_eq!(
        host.send_as(&reader, "DELETE", &format!("/v1/files/{id}"), &[], b"")
            .status,
        403
    );
    assert_eq!(post_as(&host, &reader, "xyz", &[(CONTENT, PNG)]).status, 403);
    assert_eq!(host.send_as(&caller, "GET", "/v1/files", &[], b"").status, 200);
    assert_eq!(exchange(host.address, "GET", "/v1/files", &[], b"").status, 401);
    let gone = host.send_as(&caller, "DELETE", &format!("/v1/files/{id}"), &[], b"");
    assert_eq!((gone.status, gone.body.len()), (204, 0));
    assert_eq!(host.get(&format!("/v1/files/{id}")).status, 404);
    assert_eq!(host.get(&path(&file["urls"]["download"])).status, 404);
    wait_until("removal", || kept(host.data()) == 0);
}

#[test]
fn a_link_works_without_a_token_for_its_file_alone() {
    let host = Host::start();
    let (file, other) = (upload(&host, PNG), upload(&host, b"other"));
    let link = path(&file["urls"]["download"]);
    let get = |path: &str| exchange(host.address, "GET", path, &[], b"");
    let good = get(&link);
    assert_eq!((good.status, good.body.as_slice()), (200, PNG));
    for (name, value) in [
        ("content-type", "application/octet-stream"),
        ("content-disposition", "attachment; filename=\"a.bin\""),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "default-src 'none'; sandbox"),
        ("access-control-allow-origin", "*"),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(good.header(name), Some(value), "{name}");
    }
    let (ours, theirs) = (file["id"].as_str().unwrap(), other["id"].as_str().unwrap());
    let expiry = link.split("expiry=").nth(1).unwrap().split('&').next().unwrap();
    for bad in [
        link.replace(ours, theirs),
        link.replace("owner=admin", "owner=other"),
        link.replace(expiry, "99999999999"),
        link.replace(expiry, "x"),
        link.replace("signature=", "signature=A"),
        link.split("&signature").next().unwrap().to_owned(),
        format!("/v1/files/{ours}/download"),
    ] {
        let reply = get(&bad);
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (404, "File not found"),
            "{bad}"
        );
    }
    let etag = good.header("etag").unwrap();
    let with = |name: &str, value: &str| exchange(host.address, "GET", &link, &[(name, value)], b"");
    let part = with("range", "bytes=1-3");
    assert_eq!((part.status, part.body.as_slice()), (206, &PNG[1..4]));
    assert_eq!(
        part.header("content-range"),
        Some(format!("bytes 1-3/{}", PNG.len()).as_str())
    );
    assert_eq!(with("range", "bytes=-2").body, PNG[PNG.len() - 2..]);
    assert_eq!(with("range", "bytes=0-0,2-3").body, PNG);
    let outside = with("range", "bytes=999-");
    assert_eq!(
        (outside.status, outside.header("content-range")),
        (416, Some(format!("bytes */{}", PNG.len()).as_str()))
    );
    assert_eq!(with("if-none-match", etag).status, 304);
    let stale = exchange(
        host.address,
        "GET",
        &link,
        &[("range", "bytes=1-3"), ("if-range", "\"old\"")],
        b"",
    );
    assert_eq!((stale.status, stale.body.as_slice()), (200, PNG));
}

#[test]
fn files_expire_and_their_links_with_them() {
    let host = Host::with(|c| c.file_ttl = Duration::from_millis(1500));
    let file = upload(&host, PNG);
    let link = path(&file["urls"]["download"]);
    wait_until("expiry", || {
        host.get(&format!("/v1/files/{}", file["id"].as_str().unwrap())).status == 404
    });
    assert_eq!(exchange(host.address, "GET", &link, &[], b"").status, 404);
    wait_until("removal", || kept(host.data()) == 0);
    host.wait_for_metric("maquette_files_bytes 0");
}

#[test]
fn an_upload_that_stops_or_drips_leaves_nothing() {
    let host = Host::with(|c| c.read_timeout = Duration::from_millis(300));
    let authorization = format!("Bearer {}", host.token);
    let all = [
        ("authorization", authorization.as_str()),
        ("content-type", "multipart/form-data; boundary=xyz"),
        ("content-length", "100000"),
    ];
    let start = format!("--xyz\r\n{CONTENT}\r\n\r\n{}", "x".repeat(50_000));
    // One that stops sending is told so.
    let mut stream = connect(host.address);
    stream.write_all(&head("POST", "/v1/files", &all)).unwrap();
    stream.write_all(start.as_bytes()).unwrap();
    let reply = receive(&mut BufReader::new(stream));
    assert_eq!(
        (reply.status, reply.json()["code"].as_str()),
        (408, Some("slow-body")),
        "{reply:?}"
    );
    wait_until("removal", || kept(host.data()) == 0);
    // One that leaves is forgotten.
    let host = Host::start();
    let authorization = format!("Bearer {}", host.token);
    let all = [
        ("authorization", authorization.as_str()),
        ("content-type", "multipart/form-data; boundary=xyz"),
        ("content-length", "100000"),
    ];
    let mut stream = connect(host.address);
    stream.write_all(&head("POST", "/v1/files", &all)).unwrap();
    stream.write_all(start.as_bytes()).unwrap();
    wait_until("arrival", || kept(host.data()) == 1);
    drop(stream);
    wait_until("removal", || kept(host.data()) == 0);
    assert_eq!(host.get("/v1/files").json()["results"], json!([]));
}

/// Asks for a file, and reads no more than the head of the reply.
fn begin(host: &Host, link: &str) -> (u16, BufReader<std::net::TcpStream>) {
    let mut stream = connect(host.address);
    stream.write_all(&head("GET", link, &[])).unwrap();
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    (line.split(' ').nth(1).unwrap().parse().unwrap(), stream)
}

/// More than sockets hold on their way.
const LARGE: usize = 32 << 20;

#[test]
fn an_owner_has_so_many_downloads_under_way_and_no_more() {
    let host = Host::with(|c| c.streams_per_owner = 2);
    let link = path(&upload(&host, &vec![7; LARGE])["urls"]["download"]);
    let open = [begin(&host, &link), begin(&host, &link)];
    assert_eq!(open.each_ref().map(|(status, _)| *status), [200, 200]);
    let refused = exchange(host.address, "GET", &link, &[], b"");
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (429, Some("too-many-streams")),
        "{refused:?}"
    );
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let other = host.token("other", &["predict"]);
    let theirs = post_as(&host, &other, "xyz", &[(CONTENT, PNG)]).json();
    assert_eq!(
        exchange(host.address, "GET", &path(&theirs["urls"]["download"]), &[], b"").status,
        200
    );
    drop(open);
    wait_until("room", || begin(&host, &link).0 == 200);
}

#[test]
fn a_download_that_is_not_read_is_ended() {
    let host = Host::start();
    let link = path(&upload(&host, &vec![7; LARGE])["urls"]["download"]);
    let folder = host.stop().unwrap();
    let mut config = config(folder.path());
    (config.read_timeout, config.slowest) = (Duration::from_millis(300), LARGE as u64);
    let host = Host::open(config);
    let (status, mut stream) = begin(&host, &link);
    assert_eq!(status, 200);
    // Only the one that asks is left.
    host.wait_for_metric("maquette_connections 1");
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(rest.len() < LARGE, "{} bytes came, {ended:?}", rest.len());
}

#[test]
fn a_drip_of_bytes_ends_with_its_time() {
    let host = Host::with(|c| (c.read_timeout, c.slowest) = (Duration::from_millis(500), 1 << 20));
    let authorization = format!("Bearer {}", host.token);
    let blob = format!("/v1/blobs/{}", "ab".repeat(32));
    for (method, path, content_type) in [
        ("POST", "/v1/files", "multipart/form-data; boundary=xyz"),
        ("PUT", &blob, "application/octet-stream"),
    ] {
        let all = [
            ("authorization", authorization.as_str()),
            ("content-type", content_type),
            ("content-length", "100000"),
        ];
        let mut stream = connect(host.address);
        stream.write_all(&head(method, path, &all)).unwrap();
        stream
            .write_all(format!("--xyz\r\n{CONTENT}\r\n\r\n").as_bytes())
            .unwrap();
        let mut drips = stream.try_clone().unwrap();
        let dripping = std::thread::spawn(move || {
            while drips.write_all(b"x").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let reply = receive(&mut BufReader::new(stream));
        assert_eq!(
            (reply.status, reply.json()["code"].as_str()),
            (408, Some("slow-body")),
            "{path}: {reply:?}"
        );
        dripping.join().unwrap();
    }
    wait_until("removal", || kept(host.data()) == 0);
    assert_eq!(std::fs::read_dir(host.data().join("blobs/tmp")).unwrap().count(), 0);
}

#[test]
fn files_outlive_a_restart_and_half_files_do_not() {
    let host = Host::start();
    let file = upload(&host, PNG);
    std::fs::write(host.data().join("files/tmp/half"), "half").unwrap();
    let folder = host.stop().unwrap();
    let host = Host::open(config(folder.path()));
    let again = host.get(&path(&file["urls"]["get"]));
    assert_eq!(again.json(), file);
    assert_eq!(
        exchange(host.address, "GET", &path(&file["urls"]["download"]), &[], b"").body,
        PNG
    );
    assert_eq!(kept(folder.path()), 1);
    host.wait_for_metric(&format!("maquette_files_bytes {}", PNG.len()));
}

#[test]
fn lists_come_in_pages_newest_first() {
    let host = Host::start();
    let ids: Vec<_> = (0..101)
        .map(|i| upload(&host, &[i])["id"].as_str().unwrap().to_owned())
        .collect();
    let first = host.get("/v1/files").json();
    let next = host.get(&path(&first["next"])).json();
    assert_eq!(next["next"], Value::Null);
    let both = [&first, &next]
        .map(|page| page["results"].as_array().unwrap().clone())
        .concat();
    let mut listed: Vec<_> = both.iter().map(|file| file["id"].as_str().unwrap()).collect();
    let times: Vec<_> = both.iter().map(|file| file["created_at"].as_str().unwrap()).collect();
    assert!(times.is_sorted_by(|a, b| a >= b));
    listed.sort_unstable();
    let mut all: Vec<_> = ids.iter().map(String::as_str).collect();
    all.sort_unstable();
    assert_eq!(listed, all);
    assert_eq!(host.get("/v1/files?cursor=nonsense").status, 400);
}

#[test]
fn a_quota_that_is_used_up_says_what_to_do() {
    let host = Host::with(|c| c.files_per_owner_bytes = 10_000);
    upload(&host, &[0; 5000]);
    let reply = post(&host, &[(CONTENT, &[0; 5000])]);
    assert!(
        reply.status == 507 && reply.problem().contains("delete some"),
        "{reply:?}"
    );
    wait_until("removal", || kept(host.data()) == 1);
}

/// A guest that emits three files of a byte each, one after the other, or (`stuck`) the first and then never ends.
fn album() -> Vec<u8> {
    maquette_fixtures::component_with_schemas(
        r#"
  (import "maquette:model/run@0.1.0" "emit" (func $emit (param i32 i32 i32)))
  (import "maquette:model/files@0.1.0" "[static]output-file.create" (func $create (param i32 i32 i32)))
  (import "maquette:model/files@0.1.0" "[method]output-file.write" (func $write (param i32 i32 i32 i32)))
  (import "maquette:model/files@0.1.0" "[static]output-file.finish" (func $finish (param i32 i32)))"#,
        r#"
  (data (i32.const 4096) "image/png")
  (data (i32.const 4112) "012")
  (data (i32.const 4128) "[\"maquette-file:0\",\"maquette-file:1\",\"maquette-file:2\"]")
  (func $predict (param $p i32) (param $n i32) (result i32) (local $ret i32) (local $file i32) (local $i i32) (local $len i32)
    (local.set $ret (call $alloc (i32.const 16)))
    (loop $files
      (call $create (i32.const 4096) (i32.const 9) (local.get $ret))
      (local.set $file (i32.load offset=4 (local.get $ret)))
      (call $write (local.get $file) (i32.add (i32.const 4112) (local.get $i)) (i32.const 1) (local.get $ret))
      (call $finish (local.get $file) (local.get $ret))
      (local.set $len (i32.load offset=8 (local.get $ret)))
      (i32.store8 (i32.const 8192) (i32.const 34))
      (memory.copy (i32.const 8193) (i32.load offset=4 (local.get $ret)) (local.get $len))
      (i32.store8 offset=8193 (local.get $len) (i32.const 34))
      (call $emit (i32.const 8192) (i32.add (local.get $len) (i32.const 2)) (local.get $ret))
      (if (i32.eq (i32.load8_u offset=7 (local.get $p)) (i32.const 115)) (then (loop $on (br $on))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $files (i32.lt_u (local.get $i) (i32.const 3))))
    (call $ok (i32.const 4128) (i32.const 55)))"#,
        r#"{"type":"object","required":["do"],"properties":{"do":{"type":"string"}}}"#,
        r#"{"type":"array","items":{"type":"string","format":"uri"},"x-cog-array-type":"iterator"}"#,
    )
}

/// Publishes [`album`] and begins a prediction of it.
fn album_of(host: &Host, what: &str) -> Value {
    let published = host.publish("album", "1.0.0", &album(), &["latest"]);
    assert!(matches!(published.status, 200 | 201), "{published:?}");
    let body = json!({"version": "me/album", "input": {"do": what}});
    host.post("/v1/predictions", &body).json()
}

/// The URLs in the `output` events of a prediction's stream, as far as they have come: to its end, or the first of them.
fn streamed(host: &Host, made: &Value, whole: bool) -> Vec<Value> {
    let mut stream = connect(host.address);
    let stream_path = path(&made["urls"]["stream"]);
    stream
        .write_all(&head("GET", &stream_path, &[("connection", "close")]))
        .unwrap();
    let (mut urls, mut name) = (Vec::new(), String::new());
    for line in BufReader::new(stream).lines().map(Result::unwrap) {
        if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut name);
        }
        if let Some(data) = line.strip_prefix("data: ")
            && name == "output"
        {
            urls.push(json!(data));
            if !whole {
                break;
            }
        }
    }
    urls
}

#[test]
fn files_of_an_output_that_grows_are_there_when_their_items_are() {
    let host = Host::start();
    let download = |url: &Value| {
        let reply = host.send_as("", "GET", &path(url), &[], b"");
        assert_eq!((reply.status, reply.header("content-type")), (200, Some("image/png")));
        reply.text()
    };
    let stuck = album_of(&host, "stuck");
    let at = format!("/v1/predictions/{}", stuck["id"].as_str().unwrap());
    let first = streamed(&host, &stuck, false);
    let polled = host.get(&at).json();
    assert_eq!(
        (polled["status"].as_str(), &polled["output"]),
        (Some("processing"), &json!(first))
    );
    assert_eq!(download(&first[0]), "0");
    let ended = host.post(&format!("{at}/cancel"), &json!({})).json();
    assert_eq!(
        (ended["status"].as_str(), &ended["output"]),
        (Some("canceled"), &json!(first))
    );
    assert_eq!(kept(host.data()), 1);

    let made = album_of(&host, "all");
    let at = format!("/v1/predictions/{}", made["id"].as_str().unwrap());
    let urls = streamed(&host, &made, true);
    let ended = host.get(&at).json();
    assert_eq!(
        (ended["status"].as_str(), &ended["output"]),
        (Some("succeeded"), &json!(urls))
    );
    assert_eq!(urls.iter().map(download).collect::<Vec<_>>(), ["0", "1", "2"]);
    assert_eq!(kept(host.data()), 4, "each file is kept once");
    assert_eq!(host.send("DELETE", &at, &[], b"").status, 204);
    assert_eq!(kept(host.data()), 1);

    // Whoever runs the model directly has no place where files are kept: they travel inside the items.
    let accept = [("accept", "text/event-stream"), ("content-type", "application/json")];
    let run = host.send("POST", "/v1/models/me/album/run", &accept, br#"{"do":"all"}"#);
    let told = run.text();
    let items: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("data: \"")).collect();
    let expected = ["MA==", "MQ==", "Mg=="].map(|base64| format!("data:image/png;base64,{base64}\""));
    assert_eq!(items, expected, "{told}");
}

#[test]
fn an_output_whose_files_find_no_room_fails_in_words() {
    let host = Host::with(|c| c.files_per_owner_bytes = 5000);
    let made = album_of(&host, "all");
    assert!(streamed(&host, &made, true).len() < 3);
    let ended = host
        .get(&format!("/v1/predictions/{}", made["id"].as_str().unwrap()))
        .json();
    assert_eq!(ended["status"], "failed");
    let error = ended["error"].as_str().unwrap();
    assert!(
        error.starts_with("the output could not be kept: your files take all"),
        "{error}"
    );
}

#[test]
fn a_run_whose_files_find_no_room_is_stopped_when_that_is_known() {
    let host = Host::with(|c| c.files_per_owner_bytes = 1000);
    // Left alone it would go on until its time is over, and fail because of that.
    let made = album_of(&host, "stuck");
    assert!(streamed(&host, &made, true).is_empty());
    let ended = host
        .get(&format!("/v1/predictions/{}", made["id"].as_str().unwrap()))
        .json();
    assert_eq!(ended["status"], "failed");
    let error = ended["error"].as_str().unwrap();
    assert!(
        error.starts_with("the output could not be kept: your files take all"),
        "{error}"
    );
}

//! Tokens, webhook keys and secret inputs appear in no log, no error, no figure, no column and no file, whatever goes well or wrong.
//! Secrets are planted wherever a caller can put them, and then searched for in everything that the server has said and kept.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use support::http::{Client, Reply};
use support::serve::Serve;

/// Two secrets of the schema's two kinds, with rules whose errors would quote them.
const INPUT: &str = r#"{"type":"object","required":["a"],"properties":{"a":{"type":"string"},
    "key":{"type":"string","format":"password","pattern":"^plant-[a-z0-9-]+$"},
    "pin":{"type":"string","x-cog-secret":true,"enum":["plant-pin-good"]},
    "file":{"type":"string","format":"uri"},"text":{"type":"string"}}}"#;

/// Does what the first letter of `a` says. `c` looks whether `key`, its next field, is the true one; `l` logs and emits its input, `f`
/// fails with its input as the message, `t` traps, `w` never ends; anything else returns its input.
fn guest() -> Vec<u8> {
    maquette_fixtures::component_with_schemas(
        r#"
  (import "maquette:model/run@0.1.0" "emit" (func $emit (param i32 i32 i32)))
  (import "maquette:model/run@0.1.0" "log" (func $log (param i32 i32 i32)))"#,
        r#"
  (data (i32.const 4096) "truefalse")
  (func $predict (param $p i32) (param $n i32) (result i32) (local $do i32) (local $ret i32)
    (local.set $do (i32.load8_u offset=6 (local.get $p)))
    (if (i32.eq (local.get $do) (i32.const 116)) (then unreachable))
    (if (i32.eq (local.get $do) (i32.const 119)) (then (loop $on (br $on))))
    (if (i32.eq (local.get $do) (i32.const 99)) (then
      (if (i32.eq (i32.load8_u offset=20 (local.get $p)) (i32.const 112))
        (then (return (call $ok (i32.const 4096) (i32.const 4)))))
      (return (call $ok (i32.const 4100) (i32.const 5)))))
    (if (i32.eq (local.get $do) (i32.const 102)) (then
      (local.set $ret (call $alloc (i32.const 16)))
      (i32.store (local.get $ret) (i32.const 1))
      (i32.store8 offset=4 (local.get $ret) (i32.const 7))
      (i32.store offset=8 (local.get $ret) (local.get $p))
      (i32.store offset=12 (local.get $ret) (local.get $n))
      (return (local.get $ret))))
    (if (i32.eq (local.get $do) (i32.const 108)) (then
      (call $log (i32.const 3) (local.get $p) (local.get $n))
      (call $emit (local.get $p) (local.get $n) (call $alloc (i32.const 16)))))
    (call $ok (local.get $p) (local.get $n)))"#,
        &INPUT.replace('\n', ""),
        "{}",
    )
}

/// A receiver of webhooks that refuses them all and keeps what it was sent.
fn receiver() -> (u16, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut all = Vec::new();
            let mut piece = [0; 4096];
            // The body follows its head at once; whatever comes later is not waited for.
            while let Ok(n @ 1..) = stream.read(&mut piece) {
                all.extend_from_slice(&piece[..n]);
                if all.ends_with(b"}") {
                    break;
                }
            }
            kept.lock().unwrap().extend(all);
            let _ = stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        }
    });
    (port, heard)
}

fn holds(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|part| part == secret.as_bytes())
}

/// Every file below a folder, with its bytes; the files that are secrets themselves left out.
fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            files(&path, found);
        } else if name != "admin.token" && name != "secret.key" {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

fn create(
    client: &mut Client,
    version: &str,
    input: &Value,
    more: &[(&str, Value)],
    headers: &[(&str, &str)],
) -> Reply {
    let mut body = json!({"version": version, "input": input});
    for (name, value) in more {
        body[*name] = value.clone();
    }
    client
        .send("POST", "/v1/predictions", headers, body.to_string().as_bytes())
        .unwrap()
}

#[test]
fn planted_secrets_are_found_nowhere_whatever_goes_well_or_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (port, heard) = receiver();
    let allowed = format!("127.0.0.1:{port}");
    let args = ["--lanes", "1", "--allow-outbound", &allowed];
    let loud = [("MAQUETTE_LOG", "trace")];
    let mut serve = Serve::start_in(&data, &args, &loud);
    let version = serve.publish("keeper", &guest(), 60_000);
    let ann_token = serve.owner("ann");
    let (mut admin, mut ann) = (serve.client(), Client::new(serve.address, &ann_token));
    let mut bob = Client::new(serve.address, &serve.owner("bob"));

    let key = "plant-key-3f9a";
    let secret = |what: &str| json!({"a": what, "key": key, "pin": "plant-pin-good"});
    let wait = [("prefer", "wait")];
    let hook = format!("http://{allowed}/hook?token=plant-hook");
    let told = [
        ("webhook", json!(hook)),
        ("webhook_events_filter", json!(["start", "logs", "completed"])),
    ];
    let mut seen: Vec<(String, Vec<u8>)> = Vec::new();
    let mut note = |what: &str, reply: &Reply| {
        let headers = reply.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        seen.push((what.to_owned(), headers.collect::<String>().into_bytes()));
        seen.push((what.to_owned(), reply.body.clone()));
    };

    // Whoever is given a secret has it, and nobody else: not even its caller sees it again.
    let checked = create(&mut ann, &version, &secret("check"), &[], &wait);
    assert_eq!(
        checked.json()["output"],
        true,
        "the guest has the true key: {checked:?}"
    );
    note("check", &checked);
    let mut signatures = Vec::new();
    let mut ids = Vec::new();
    for what in ["echo", "log", "fail", "trap"] {
        let made = create(&mut ann, &version, &secret(what), &told, &wait);
        let object = made.json();
        assert_eq!(object["input"]["key"], "[REDACTED]", "{object}");
        match what {
            "fail" => assert!(object["error"].as_str().unwrap().contains("[REDACTED]"), "{object}"),
            "trap" => assert_eq!(object["error"], "the model panicked"),
            _ => assert_eq!(object["output"]["pin"], "[REDACTED]", "{object}"),
        }
        if what == "log" {
            assert!(object["logs"].as_str().unwrap().contains("[REDACTED]"), "{object}");
        }
        let stream = object["urls"]["stream"].as_str().unwrap();
        signatures.push(stream.split_once("signature=").unwrap().1.to_owned());
        let path = stream.replace("http://test.local", "");
        note("its stream", &Client::new(serve.address, "").get(&path).unwrap());
        ids.push(object["id"].as_str().unwrap().to_owned());
        let run = format!("/v1/models/me/keeper/versions/{version}/run");
        note(
            "a direct call",
            &ann.send("POST", &run, &[], secret(what).to_string().as_bytes())
                .unwrap(),
        );
        // For contributors a failure has the guest's log with it.
        note(
            "a contributor's call",
            &admin
                .send("POST", &run, &[], secret(what).to_string().as_bytes())
                .unwrap(),
        );
    }
    // Its own token, sent along as an input, under a key of the caller's.
    let keyed = [("prefer", "wait"), ("idempotency-key", "plant-idempotency")];
    let input = json!({"a": "echo", "text": format!("my token is {ann_token}"), "key": key});
    note("with a token", &create(&mut ann, &version, &input, &[], &keyed));
    note("again", &create(&mut ann, &version, &input, &[], &keyed));

    // Inputs that are refused: errors do not quote what is secret.
    let run = "/v1/models/me/keeper/run";
    for (field, value) in [
        ("key", json!("PLANT-WRONG-PATTERN")),
        ("key", json!(["plant-wrong-type"])),
        ("pin", json!("plant-pin-wrong")),
        ("pin", json!({"plant-in-object": "plant-value"})),
    ] {
        let mut input = json!({"a": "echo"});
        input[field] = value;
        let refused = create(&mut ann, &version, &input, &[], &[]);
        assert_eq!(refused.status, 422, "{refused:?}");
        note("refused", &refused);
        note(
            "refused",
            &ann.send("POST", run, &[], input.to_string().as_bytes()).unwrap(),
        );
    }
    // Files and webhooks by URLs with credentials, which lead nowhere.
    for url in [
        format!("http://plant-user:plant-password@{allowed}/f"),
        format!("http://{allowed}/f?token=plant-file-query"),
        "http://127.0.0.1:9/f?token=plant-file-query".to_owned(),
        "http://nowhere.invalid/f?token=plant-file-query".to_owned(),
    ] {
        let input = json!({"a": "echo", "file": url});
        let refused = create(&mut ann, &version, &input, &[], &[]);
        assert_eq!(refused.status, 422, "{refused:?}");
        note("a file", &refused);
        if !url.contains(&allowed) || url.contains('@') {
            let refused = create(
                &mut ann,
                &version,
                &json!({"a": "echo"}),
                &[("webhook", json!(url.replace("plant-file-query", "plant-hook")))],
                &wait,
            );
            note("a webhook", &refused);
        }
    }
    // What is no JSON, no token, no path.
    let broken = format!("{{\"version\": \"{version}\", \"input\": {{\"a\": \"echo\", \"key\": \"plant-broken-json");
    note(
        "broken",
        &ann.send("POST", "/v1/predictions", &[], broken.as_bytes()).unwrap(),
    );
    note("broken", &ann.send("POST", run, &[], broken.as_bytes()).unwrap());
    for authorization in [
        "Basic plant-basic",
        "Bearer plant-bearer",
        "Bearer mqt_plantbearer",
        "mqt_plantbare",
    ] {
        let mut nobody = Client::new(serve.address, "");
        let refused = nobody
            .send("POST", run, &[("authorization", authorization)], b"{}")
            .unwrap();
        assert_eq!(refused.status, 401);
        note("no token", &refused);
    }
    note(
        "a token in a path",
        &admin.send("DELETE", "/v1/tokens/mqt_plantinpath", &[], b"").unwrap(),
    );
    note(
        "a token in a query",
        &admin.get("/v1/models?token=mqt_plantinquery").unwrap(),
    );

    // The webhooks' own key, and a file's link.
    let whsec = ann.get("/v1/webhooks/default/secret").unwrap().json()["key"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(whsec.starts_with("whsec_") && whsec.len() > 20, "{whsec}");
    note("the key in a path", &admin.get(&format!("/v1/{whsec}")).unwrap());

    // A crash while one with a secret runs: it ends, and says why, and its secret was nowhere.
    let running = create(&mut ann, &version, &secret("wait"), &told, &[]).json();
    let path = format!("/v1/predictions/{}", running["id"].as_str().unwrap());
    while ann.get(&path).unwrap().json()["status"] != "processing" {
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut kept = Vec::new();
    files(&data, &mut kept);
    serve.kill();
    let mut serve = Serve::start_in(&data, &args, &loud);
    let (mut admin, mut ann) = (serve.client(), Client::new(serve.address, &ann_token));
    bob = Client::new(serve.address, &{
        let _ = &mut bob;
        serve.owner("bob")
    });
    let ended = loop {
        let found = ann.get(&path).unwrap();
        if found.json()["status"] == "failed" {
            break found;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(
        ended.json()["error"].as_str().unwrap().contains("send it again"),
        "{ended:?}"
    );
    note("after a crash", &ended);

    // What others see, and what everybody sees.
    for id in &ids {
        let other = bob.get(&format!("/v1/predictions/{id}")).unwrap();
        assert_eq!(other.status, 404);
        note("another's", &other);
        note("its own", &ann.get(&format!("/v1/predictions/{id}")).unwrap());
    }
    for path in [
        "/v1/predictions",
        "/v1/webhooks/deliveries",
        "/v1/models",
        "/openapi.json",
        "/v1/usage",
        "/v1/tokens",
    ] {
        for client in [&mut bob, &mut admin] {
            note(path, &client.get(path).unwrap());
        }
    }
    for path in ["/metrics", &format!("/v1/models/me/keeper/versions/{version}")] {
        note(path, &admin.get(path).unwrap());
    }
    note("its own list", &ann.get("/v1/predictions").unwrap());
    // The receiver has been told, and refused, more than once.
    for _ in 0..1000 {
        if heard.lock().unwrap().len() > 1000 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    serve.stop();
    files(&data, &mut kept);
    let log = serve.log();
    assert!(log.contains("DEBUG") && log.contains("a call failed") && log.contains("a webhook was not delivered"));
    let heard = heard.lock().unwrap().clone();
    assert!(
        holds(&heard, "[REDACTED]"),
        "webhooks tell of inputs without their secrets"
    );

    let token = serve.token.clone();
    // What a schema lists as choices is everybody's.
    let inputs = [
        key,
        "PLANT-WRONG-PATTERN",
        "plant-wrong-type",
        "plant-pin-wrong",
        "plant-value",
        "plant-broken-json",
    ];
    let credentials = [
        token.as_str(),
        &ann_token,
        &whsec,
        "plant-user",
        "plant-password",
        "plant-file-query",
        "plant-basic",
        "plant-bearer",
        "mqt_plant",
        &whsec["whsec_".len()..],
    ];
    for secret in inputs.iter().chain(&credentials) {
        assert!(
            !holds(log.as_bytes(), secret),
            "`{secret}` is in the log: {:?}",
            line_with(&log, secret)
        );
        for (what, bytes) in seen.iter().chain(&kept) {
            let text = String::from_utf8_lossy(bytes);
            assert!(
                !holds(bytes, secret),
                "`{secret}` is in {what}: {:?}",
                line_with(&text, secret)
            );
        }
        // It was asked for the file by this very URL.
        assert!(
            *secret == "plant-file-query" || !holds(&heard, secret),
            "`{secret}` was told to a receiver"
        );
    }
    // A capability is for whoever has the prediction; a receiver's URL has to be kept to be called again. Neither is logged.
    for secret in signatures
        .iter()
        .map(String::as_str)
        .chain(["plant-hook", "plant-idempotency"])
    {
        assert!(
            !holds(log.as_bytes(), secret),
            "`{secret}` is in the log: {:?}",
            line_with(&log, secret)
        );
        for (what, bytes) in &kept {
            let outbox = what.contains("maquette.db");
            assert!(outbox || !holds(bytes, secret), "`{secret}` is in {what}");
        }
    }
}

fn line_with(text: &str, secret: &str) -> Option<String> {
    let at = text.find(secret)?;
    let (start, end) = (
        text.floor_char_boundary(at.saturating_sub(150)),
        text.floor_char_boundary((at + 100).min(text.len())),
    );
    Some(text[start..end].to_owned())
}

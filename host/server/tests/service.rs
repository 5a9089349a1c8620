//! The service as its operator sees it: starting, stopping, crashing, tokens, limits on clients, figures.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Host, actor, config, connect, exchange, head, receive};
use maquette_server::{Server, StartError};
use serde_json::json;

#[test]
fn what_was_published_is_callable_after_a_restart() {
    let host = Host::start();
    let id = host.actor();
    let token = host.token.clone();
    let folder = host.stop().unwrap();
    let host = Host::open(config(folder.path()));
    assert_eq!(host.token, token, "the admin token stays");
    host.wait_for_metric("maquette_open_guests 0");
    let reply = host.run(&json!({"do": "echo"}));
    assert_eq!(
        (reply.status, reply.header("x-maquette-version")),
        (200, Some(id.as_str()))
    );
    host.wait_for_metric("maquette_open_guests 1");
    host.stop();
    // Compiled code that is gone or damaged is compiled again.
    for damage in [true, false] {
        for entry in std::fs::read_dir(folder.path().join("cache")).unwrap() {
            let path = entry.unwrap().path();
            if damage && path.extension().is_some_and(|e| e == "cwasm") {
                std::fs::write(&path, b"damaged").unwrap();
            } else if !damage {
                std::fs::remove_file(&path).unwrap();
            }
        }
        let host = Host::open(config(folder.path()));
        let reply = host.run(&json!({"do": "echo"}));
        assert_eq!(reply.status, 200, "damage: {damage}: {reply:?}");
        host.stop();
    }
}

#[test]
fn idle_versions_are_closed_and_open_again() {
    let host = Host::with(|c| {
        c.idle = Duration::from_millis(100);
        c.open_versions = 1;
    });
    host.actor();
    host.wait_for_metric("maquette_open_guests 0");
    assert_eq!(host.run(&json!({"do": "echo"})).status, 200);
    assert_eq!(host.publish("actor", "2.0.0", &actor(), &["next"]).status, 201);
    let open = host.get("/metrics").text();
    assert!(
        open.contains("maquette_open_guests 1") || open.contains("maquette_open_guests 0"),
        "never more than one"
    );
    assert_eq!(host.run(&json!({"do": "echo"})).status, 200);
}

#[test]
fn a_data_folder_serves_one_server_at_a_time() {
    let host = Host::start();
    let second = host.runtime.block_on(Server::start(config(host.data())));
    assert!(matches!(second.map(|_| ()), Err(StartError::InUse(_))));
    let folder = host.stop().unwrap();
    Host::open(config(folder.path())).stop();
}

#[test]
fn an_address_that_is_taken_is_named() {
    let host = Host::start();
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.bind = host.address;
    let error = host.runtime.block_on(Server::start(config)).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains(&host.address.to_string()) && error.to_string().contains("--bind"),
        "{error}"
    );
}

#[test]
fn stopping_finishes_running_calls_and_refuses_new_connections() {
    let mut host = Host::start();
    host.actor();
    let mut stream = connect(host.address);
    let authorization = format!("Bearer {}", host.token);
    let headers = [("authorization", authorization.as_str()), ("content-length", "13")];
    stream
        .write_all(&head("POST", "/v1/models/me/actor/run", &headers))
        .unwrap();
    stream.write_all(br#"{"do":"wait"}"#).unwrap();
    host.wait_for_metric("maquette_running_calls 1");
    host.runtime.block_on(host.server.take().unwrap().stop());
    let reply = receive(&mut BufReader::new(stream));
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert!(std::net::TcpStream::connect(host.address).is_err());
}

#[test]
fn stopping_does_not_wait_for_ever() {
    let mut host = Host::with(|c| c.drain = Duration::from_millis(200));
    host.actor();
    let mut stream = connect(host.address);
    let authorization = format!("Bearer {}", host.token);
    let headers = [("authorization", authorization.as_str()), ("content-length", "13")];
    stream
        .write_all(&head("POST", "/v1/models/me/actor/run", &headers))
        .unwrap();
    stream.write_all(br#"{"do":"loop"}"#).unwrap();
    host.wait_for_metric("maquette_running_calls 1");
    let started = Instant::now();
    host.runtime.block_on(host.server.take().unwrap().stop());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let reply = receive(&mut BufReader::new(stream));
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (503, "stopping")
    );
}

#[test]
fn stopping_ends_a_publish_and_its_compiler() {
    let mut host = Host::with(|c| c.drain = Duration::from_millis(200));
    let looping = maquette_fixtures::component(
        "",
        "(func $load (result i32) (loop $forever (br $forever)) (i32.const 32))",
    );
    let manifest = host.manifest("actor", "1.0.0", &looping);
    let (address, token) = (host.address, host.token.clone());
    let publishing = std::thread::spawn(move || {
        let body = json!({"manifest": manifest}).to_string();
        let authorization = format!("Bearer {token}");
        exchange(
            address,
            "POST",
            "/v1/models/me/actor/versions",
            &[("authorization", &authorization)],
            body.as_bytes(),
        )
    });
    std::thread::sleep(Duration::from_millis(300));
    let started = Instant::now();
    host.runtime.block_on(host.server.take().unwrap().stop());
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let reply = publishing.join().unwrap();
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (503, "stopping"),
        "{reply:?}"
    );
}

#[test]
fn old_blobs_and_compiled_components_that_no_version_uses_are_removed_at_start_and_others_stay() {
    let host = Host::start();
    host.actor();
    let orphan = host.blob(b"nobody's");
    // It is compiled, and then found not to fit its case.
    let mut manifest = host.manifest("other", "1.0.0", &maquette_fixtures::echo());
    manifest["cases"] = json!([host.blob(br#"{"name": "wrong", "input": {}, "output": 1}"#)]);
    let failed = host.post("/v1/models/me/other/versions", &json!({"manifest": manifest}));
    assert_eq!(failed.json()["step"], "cases", "{failed:?}");
    let folder = host.stop().unwrap();
    let compiled = || {
        let entries = std::fs::read_dir(folder.path().join("cache")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".cwasm")).collect::<Vec<_>>()
    };
    assert_eq!(compiled().len(), 2);
    let missing = |age: Duration| {
        let mut config = config(folder.path());
        config.orphan_age = Some(age);
        let host = Host::open(config);
        let missing = host
            .post("/v1/publish/missing", &json!({"digests": [orphan["sha256"]]}))
            .json();
        assert_eq!(host.run(&json!({"do": "echo"})).status, 200);
        host.stop();
        missing["missing"].as_array().unwrap().len()
    };
    assert_eq!(
        missing(Duration::from_secs(3600)),
        0,
        "young ones may belong to a publish that goes on"
    );
    assert_eq!(compiled().len(), 2);
    assert_eq!(missing(Duration::ZERO), 1);
    assert_eq!(
        compiled().len(),
        1,
        "the one that is called is still there, and was not made again"
    );
}

#[test]
fn tokens_open_what_their_scopes_say_until_they_are_revoked() {
    let host = Host::start();
    host.actor();
    let everything = [
        "GET /v1/models",
        "POST /v1/models/me/actor/run",
        "POST /v1/publish/missing",
        "GET /v1/tokens",
    ];
    let body = |request: &str| match request.split('/').next_back().unwrap() {
        "run" => r#"{"do":"echo"}"#,
        "missing" => r#"{"digests":[]}"#,
        _ => "",
    };
    let statuses = |token: &str| {
        everything.map(|request| {
            let (method, path) = request.split_once(' ').unwrap();
            host.send_as(token, method, path, &[], body(request).as_bytes()).status
        })
    };
    assert_eq!(statuses(&host.token("a", &["read"])), [200, 403, 403, 403]);
    assert_eq!(statuses(&host.token("a", &["predict"])), [403, 200, 403, 403]);
    assert_eq!(statuses(&host.token("a", &["publish"])), [403, 403, 200, 403]);
    assert_eq!(statuses(&host.token("a", &["admin"])), [200; 4]);
    assert_eq!(statuses("mqt_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), [401; 4]);
    let nobody = exchange(host.address, "GET", "/v1/models", &[], b"");
    assert_eq!(
        (nobody.status, nobody.header("www-authenticate")),
        (401, Some("Bearer"))
    );
    assert_eq!(nobody.problem(), "You did not pass a valid authentication token");

    let made = host
        .post("/v1/tokens", &json!({"owner": "a", "scopes": ["read"]}))
        .json();
    let (id, secret) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert!(
        !host.get("/v1/tokens").text().contains(secret),
        "a secret is shown once"
    );
    assert_eq!(statuses(secret)[0], 200);
    assert_eq!(host.send("DELETE", &format!("/v1/tokens/{id}"), &[], b"").status, 204);
    assert_eq!(statuses(secret)[0], 401);
    assert_eq!(host.send("DELETE", &format!("/v1/tokens/{id}"), &[], b"").status, 404);
    for bad in [
        json!({}),
        json!({"owner": "a", "scopes": []}),
        json!({"owner": "A/B", "scopes": ["read"]}),
        json!({"owner": "a", "scopes": ["root"]}),
    ] {
        assert_eq!(host.post("/v1/tokens", &bad).status, 422, "{bad}");
    }
}

#[test]
fn without_authentication_everybody_is_an_admin() {
    let host = Host::with(|c| c.auth = false);
    assert_eq!(exchange(host.address, "GET", "/v1/tokens", &[], b"").status, 200);
}

#[test]
fn probes_answer_without_a_token_and_figures_do_not() {
    let host = Host::start();
    for path in ["/healthz", "/readyz", "/openapi.json"] {
        assert_eq!(exchange(host.address, "GET", path, &[], b"").status, 200, "{path}");
    }
    assert_eq!(exchange(host.address, "GET", "/metrics", &[], b"").status, 401);
    let open = Host::with(|c| c.open_metrics = true);
    let text = exchange(open.address, "GET", "/metrics", &[], b"").text();
    assert!(
        text.ends_with("# EOF\n") && text.contains("maquette_versions 0"),
        "{text}"
    );
}

#[test]
fn a_request_keeps_its_id_if_that_is_harmless() {
    let host = Host::start();
    let id = |sent: &str| {
        host.send("GET", "/healthz", &[("x-request-id", sent)], b"")
            .header("x-request-id")
            .unwrap()
            .to_owned()
    };
    assert_eq!(id("trace-1.2:3"), "trace-1.2:3");
    assert_eq!(id("a b\"c").len(), 26);
    assert_ne!(id(""), id(""));
}

#[test]
fn a_slow_body_is_timed_out() {
    let host = Host::with(|c| c.read_timeout = Duration::from_millis(300));
    host.actor();
    let authorization = format!("Bearer {}", host.token);
    let blob = format!("/v1/blobs/{}", "ab".repeat(32));
    for (method, path) in [("POST", "/v1/models/me/actor/run"), ("PUT", blob.as_str())] {
        let mut stream = connect(host.address);
        let headers = [("authorization", authorization.as_str()), ("content-length", "1000")];
        stream.write_all(&head(method, path, &headers)).unwrap();
        stream.write_all(b"{").unwrap();
        let reply = receive(&mut BufReader::new(stream));
        assert_eq!(
            (reply.status, reply.json()["code"].as_str().unwrap()),
            (408, "slow-body"),
            "{method}"
        );
    }
    // A head that never ends only costs its connection, and not for long.
    let mut stream = connect(host.address);
    stream.write_all(b"GET /healthz HTTP/1.1\r\nx-slow").unwrap();
    let started = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_connection_that_stays_idle_is_closed() {
    let host = Host::with(|c| c.read_timeout = Duration::from_millis(300));
    let mut stream = BufReader::new(connect(host.address));
    stream.get_mut().write_all(&head("GET", "/healthz", &[])).unwrap();
    assert_eq!(receive(&mut stream).status, 200);
    assert_eq!(stream.read_to_end(&mut Vec::new()).unwrap_or(0), 0);
}

#[test]
fn clients_that_send_nothing_keep_nobody_out_and_busy_ones_stay() {
    // Nothing ends by itself here: whoever gets a reply has got a place of somebody who was idle.
    let host = Host::with(|c| {
        c.read_timeout = Duration::from_secs(600);
        c.connections = 12;
    });
    let id = host.patient();
    let made = host
        .post("/v1/predictions", &json!({"version": id, "input": {"do": "never"}}))
        .json();
    let stream = made["urls"]["stream"]
        .as_str()
        .unwrap()
        .strip_prefix("http://test.local")
        .unwrap();
    let mut busy: Vec<_> = (0..4).map(|_| BufReader::new(connect(host.address))).collect();
    for reader in &mut busy {
        reader.get_mut().write_all(&head("GET", stream, &[])).unwrap();
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        assert!(line.contains(" 200 "), "{line}");
    }
    // Some have sent a request before, some a piece of one, some nothing.
    let mut idle: Vec<_> = (0..8).map(|_| connect(host.address)).collect();
    for (n, slow) in idle.iter_mut().enumerate() {
        match n % 3 {
            0 => {
                slow.write_all(&head("GET", "/healthz", &[])).unwrap();
                assert_eq!(receive(&mut BufReader::new(slow.try_clone().unwrap())).status, 200);
            }
            1 => slow.write_all(b"GET /healthz HTTP/1.1\r\nx-slow").unwrap(),
            _ => {}
        }
    }
    let later: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = BufReader::new(connect(host.address));
            stream.get_mut().write_all(&head("GET", "/healthz", &[])).unwrap();
            assert_eq!(receive(&mut stream).status, 200);
            stream
        })
        .collect();
    host.post(
        &format!("/v1/predictions/{}/cancel", made["id"].as_str().unwrap()),
        &json!({}),
    );
    for mut reader in busy {
        let mut told = String::new();
        while !told.contains("event: done") {
            assert!(reader.read_line(&mut told).unwrap() > 0, "{told}");
        }
    }
    drop((idle, later));
}

#[test]
fn what_is_not_http_or_too_long_is_told_so_and_ends_its_connection_alone() {
    let host = Host::start();
    for (garbage, status) in [
        (b"\x16\x03\x01\x02\0\x01\0".to_vec(), 400),
        (b"GET\r\n\r\n".to_vec(), 400),
        ([b"GET /".to_vec(), vec![b'a'; 70_000]].concat(), 431),
        ([b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 70_000]].concat(), 431),
    ] {
        let mut stream = connect(host.address);
        let _ = stream.write_all(&garbage);
        let _ = stream.write_all(b" HTTP/1.1\r\n\r\n");
        let mut line = String::new();
        let _ = BufReader::new(stream).read_line(&mut line);
        let begins = String::from_utf8_lossy(&garbage[..8.min(garbage.len())]).into_owned();
        assert!(line.starts_with(&format!("HTTP/1.1 {status} ")), "{begins}: {line}");
        assert_eq!(host.get("/healthz").status, 200);
    }
}

#[test]
fn memory_for_bodies_is_bounded() {
    let host = Host::with(|c| {
        c.max_body_bytes = 1 << 20;
        c.body_memory_bytes = 4 << 20;
    });
    host.actor();
    let body = json!({"do": "echo", "text": "x".repeat(900_000)}).to_string();
    let reply = host.send("POST", "/v1/models/me/actor/run", &[], body.as_bytes());
    assert_eq!(
        (reply.status, reply.json()["code"].as_str().unwrap()),
        (503, "busy"),
        "{reply:?}"
    );
    let body = json!({"do": "echo", "text": "x".repeat(400_000)}).to_string();
    assert_eq!(
        host.send("POST", "/v1/models/me/actor/run", &[], body.as_bytes())
            .status,
        200,
        "it comes back"
    );
}

#[test]
fn garbage_is_the_senders_fault_on_every_path() {
    let host = Host::start();
    let id = host.actor();
    let version = format!("/v1/models/me/actor/versions/{id}");
    let paths = [
        "/v1/models/me/actor/run",
        "/v1/models/me/actor/versions",
        "/v1/models/me/actor/aliases/x",
        "/v1/publish/missing",
        "/v1/tokens",
        "/v1/tokens/x",
        "/v1/blobs/x",
        "/v1/models/%F0%9F%98%80/%2e%2e/versions/%00",
        "/v1/models//",
        "//",
        version.as_str(),
        "/v1/predictions",
        "/v1/predictions/x",
        "/v1/predictions/x/cancel",
        "/v1/models/me/actor/predictions",
        "/v1/deployments",
        "/v1/deployments/admin/x",
        "/v1/deployments/admin/x/predictions",
        "/v1/streams/admin/x",
        "/v1/collections/x",
        "/v1/search",
        "/v1/trainings/x/cancel",
        "/v1/spend-limits/Ä",
        "/v1/usage",
        "/v1/files",
        "/v1/files/x",
        "/v1/webhooks/deliveries/x/redeliver",
    ];
    let bodies: [&[u8]; 9] = [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\"\xff\"",
        b"{\"a\":",
        b"1e999",
        b"{\"manifest\":{},\"aliases\":[1]}",
        &[0; 4096],
    ];
    for path in paths {
        for method in ["POST", "PUT", "DELETE", "PATCH", "QUERY"] {
            for body in bodies {
                if (method, path) == ("DELETE", version.as_str()) {
                    // It would go: there is nothing wrong with that.
                    continue;
                }
                let reply = host.send(method, path, &[("content-type", "application/json")], body);
                assert!(
                    (400..500).contains(&reply.status),
                    "{method} {path} {body:?}: {reply:?}"
                );
                reply.problem();
            }
        }
    }
    assert_eq!(host.run(&json!({"do": "echo"})).status, 200);
}

#[test]
fn lists_are_given_in_pages() {
    let host = Host::start();
    for name in ["a", "b", "c"] {
        assert_eq!(host.publish(name, "1.0.0", &actor(), &[]).status, 201);
    }
    let names = |path: &str| {
        let page = host.get(path).json();
        let names = page["results"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| m["name"].as_str().unwrap().to_owned());
        (
            names.collect::<Vec<_>>(),
            page["next"].as_str().map(|next| next.replace("http://test.local", "")),
        )
    };
    let (first, next) = names("/v1/models?limit=2&sort_by=model_created_at&sort_direction=asc");
    assert_eq!(first, ["a", "b"]);
    assert_eq!(names(&next.unwrap()), (vec!["c".to_owned()], None));
    for bad in [
        "limit=0",
        "limit=101",
        "limit=x",
        "cursor=zz",
        "cursor=ff",
        "sort_by=size",
    ] {
        let reply = host.get(&format!("/v1/models?{bad}"));
        assert_eq!(reply.status, 400, "{bad}");
        reply.problem();
    }
}

/// Not a test of its own: the server process of the next one, which starts this very program with a folder to serve.
#[test]
fn server_process() {
    let Some(data) = std::env::var_os("MAQUETTE_TEST_DATA") else {
        return;
    };
    let host = Host::open(config(data.as_ref()));
    println!("\nlistening {} {}", host.address, host.token);
    loop {
        std::thread::park();
    }
}

struct Process {
    child: Child,
    host: Host,
}

fn process(data: &std::path::Path) -> Process {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "server_process", "--nocapture", "--test-threads=1"])
        .env("MAQUETTE_TEST_DATA", data)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let line = lines
        .into_iter()
        .find_map(|line| line.strip_prefix("listening ").map(str::to_owned))
        .unwrap();
    let (address, token) = line.split_once(' ').unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let host = Host {
        address: address.parse().unwrap(),
        token: token.to_owned(),
        runtime,
        server: None,
        folder: None,
    };
    Process { child, host }
}

#[test]
fn kill_9_at_any_point_of_a_publish_leaves_the_old_state_whole() {
    let folder = tempfile::tempdir().unwrap();
    let component = actor();
    let mut visible: Vec<String> = Vec::new();
    // From before the child process starts until after the commit; what is compiled already is published faster.
    for (round, delay) in [0, 3, 2, 5, 4, 10, 20, 40, 80, 300].into_iter().enumerate() {
        let mut process = process(folder.path());
        let host = &process.host;
        for id in &visible {
            let reply = host.post(
                &format!("/v1/models/me/actor/versions/{id}/run"),
                &json!({"do": "echo"}),
            );
            assert_eq!(
                reply.status, 200,
                "what was acknowledged is there and callable: {reply:?}"
            );
        }
        let number = format!("{round}.0.0");
        let mut manifest = host.manifest("actor", &number, &component);
        if round % 2 == 0 {
            manifest["assets"] = json!({"new": host.blob(number.as_bytes())});
        }
        let (address, token) = (host.address, host.token.clone());
        let publishing = std::thread::spawn(move || {
            // Before its first byte is sent the server may be dead already: then nothing was acknowledged.
            let Ok(mut stream) = TcpStream::connect(address) else {
                return false;
            };
            let body = json!({"manifest": manifest}).to_string();
            let (authorization, length) = (format!("Bearer {token}"), body.len().to_string());
            let headers = [
                ("authorization", authorization.as_str()),
                ("content-length", length.as_str()),
            ];
            let _ = stream.write_all(&head("POST", "/v1/models/me/actor/versions", &headers));
            let _ = stream.write_all(body.as_bytes());
            let mut text = String::new();
            let _ = stream.set_read_timeout(Some(Duration::from_secs(20)));
            let _ = BufReader::new(stream).read_line(&mut text);
            text.contains(" 201 ")
        });
        std::thread::sleep(Duration::from_millis(delay));
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        let acknowledged = publishing.join().unwrap();

        let mut process = crate::process(folder.path());
        let listed = process.host.get("/v1/models/me/actor/versions");
        let versions = if listed.status == 404 {
            Vec::new()
        } else {
            listed.json()["results"].as_array().unwrap().clone()
        };
        assert!(
            versions.len() == visible.len() || versions.len() == visible.len() + 1,
            "round {round}: {listed:?}"
        );
        assert!(
            !acknowledged || versions.len() == visible.len() + 1,
            "round {round}: an acknowledged version is lost"
        );
        if versions.len() > visible.len() {
            assert_eq!(
                versions[0]["aliases"],
                json!([number, "latest"]),
                "a version and its aliases come together"
            );
            visible.push(versions[0]["id"].as_str().unwrap().to_owned());
        }
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }
    let process = process(folder.path());
    let reply = process.host.publish("actor", "99.0.0", &component, &["latest"]);
    assert_eq!(reply.status, 201, "and publishing goes on: {reply:?}");
    let mut child = process.child;
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_crowd_stands_in_line_until_there_is_room() {
    let host = Host::with(|config| config.connections = 1);
    let system = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let crowd = 1000.min(system.trim().parse::<usize>().unwrap() - 10);
    // The system answers them, whatever the server does; a line that is too short is noticed after a second.
    let patience = Duration::from_millis(900);
    let line: Vec<_> = (0..crowd)
        .map(|n| TcpStream::connect_timeout(&host.address, patience).unwrap_or_else(|e| panic!("the {n}th: {e}")))
        .collect();
    drop(line);
    assert_eq!(host.get("/healthz").status, 200);
}

//! What is known of models beside running them, as today's clients ask for it: cards, search, collections, deployments, tokens.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Host, Reply};
use serde_json::{Value, json};

fn send(host: &Host, token: &str, method: &str, path: &str, body: &Value) -> Reply {
    let json = [("content-type", "application/json")];
    host.send_as(token, method, path, &json, body.to_string().as_bytes())
}

fn new_model(name: &str, visibility: &str) -> Value {
    json!({"owner": "me", "name": name, "visibility": visibility, "hardware": "cpu", "description": "Says it again",
        "github_url": "https://example.org/code", "unknown": 1})
}

#[test]
fn a_model_has_everything_that_clients_require() {
    let host = Host::start();
    let id = host.actor();
    let model = host.get("/v1/models/me/actor").json();
    assert_eq!(
        (model["owner"].as_str(), model["name"].as_str()),
        (Some("me"), Some("actor"))
    );
    assert_eq!(
        (model["visibility"].as_str(), model["run_count"].as_u64()),
        (Some("public"), Some(0))
    );
    assert_eq!(model["url"], "http://test.local/v1/models/me/actor");
    let version = &model["latest_version"];
    assert_eq!(version["id"], id);
    assert!(version["cog_version"].as_str().unwrap().starts_with("maquette-"));
    let schemas = &version["openapi_schema"]["components"]["schemas"];
    assert_eq!(schemas["Input"]["required"], json!(["do"]));
    assert!(schemas["Output"].is_object());
    let listed = host.get("/v1/models/me/actor/versions").json();
    assert_eq!(&listed["results"][0], version);
    assert_eq!(
        host.get(&format!("/v1/models/me/actor/versions/{id}")).json()["openapi_schema"],
        version["openapi_schema"]
    );
    host.run(&json!({"do": "echo"}));
    host.post("/v1/predictions", &json!({"version": id, "input": {"do": "echo"}}));
    let runs = || host.get("/v1/models/me/actor").json()["run_count"].as_u64();
    for _ in 0..500 {
        if runs() == Some(2) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(runs(), Some(2));
    let folder = host.stop();
    let host = Host::open(common::config(folder.as_ref().unwrap().path()));
    assert_eq!(
        host.get("/v1/models/me/actor").json()["run_count"],
        2,
        "a restart forgets no run"
    );
}

#[test]
fn every_base_url_reaches_the_same_api() {
    let host = Host::start();
    host.actor();
    let at = |path: &str| host.get(path).json();
    assert_eq!(at("/models/me/actor"), at("/v1/models/me/actor"));
    assert_eq!(at("/v1/v1/models/me/actor"), at("/v1/models/me/actor"));
    assert_eq!(host.get("/v1/healthz").status, 404);
    let reply = host.post("/models/me/actor/run", &json!({"do": "echo"}));
    assert_eq!(reply.status, 200);
    let preflight = host.send_as(
        "",
        "OPTIONS",
        "/v1/predictions",
        &[("origin", "https://a.example")],
        b"",
    );
    assert_eq!(preflight.status, 204);
    assert!(
        preflight
            .header("access-control-allow-methods")
            .unwrap()
            .contains("QUERY")
    );
    assert_eq!(host.get("/v1/models").header("access-control-allow-origin"), Some("*"));
}

#[test]
fn an_owner_makes_changes_and_removes_its_models_and_nobody_elses() {
    let host = Host::start();
    let (mine, other) = (
        host.token("me", &["read", "publish"]),
        host.token("other", &["read", "publish"]),
    );
    let made = send(&host, &mine, "POST", "/v1/models", &new_model("echo", "public"));
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    assert_eq!(
        (made["description"].as_str(), &made["latest_version"]),
        (Some("Says it again"), &Value::Null)
    );
    assert_eq!(
        send(&host, &mine, "POST", "/v1/models", &new_model("echo", "public")).status,
        409
    );
    assert_eq!(
        send(&host, &other, "POST", "/v1/models", &new_model("echo2", "public")).status,
        403
    );
    for (field, value) in [
        ("visibility", json!("unlisted")),
        ("hardware", json!("abacus")),
        ("name", json!("../x")),
        ("github_url", json!("javascript:1")),
        ("visibility", Value::Null),
    ] {
        let mut wrong = new_model("wrong", "public");
        wrong[field] = value;
        let reply = send(&host, &mine, "POST", "/v1/models", &wrong);
        assert_eq!(reply.status, 422, "{field}: {reply:?}");
        assert_eq!(reply.json()["invalid_fields"][0]["field"], format!("input.{field}"));
    }
    let path = "/v1/models/me/echo";
    let changed = send(
        &host,
        &mine,
        "PATCH",
        path,
        &json!({"readme": "# Echo", "paper_url": "https://example.org/p"}),
    );
    assert_eq!(
        (changed.status, changed.json()["paper_url"].as_str()),
        (200, Some("https://example.org/p"))
    );
    let readme = host.get("/v1/models/me/echo/readme");
    assert_eq!(
        (readme.header("content-type"), readme.text().as_str()),
        (Some("text/plain; charset=utf-8"), "# Echo")
    );
    assert_eq!(send(&host, &other, "PATCH", path, &json!({"readme": "x"})).status, 403);
    assert_eq!(send(&host, &other, "DELETE", path, &json!({})).status, 403);
    let folder = host.stop();
    let host = Host::open(common::config(folder.as_ref().unwrap().path()));
    assert_eq!(
        host.get(path).json()["github_url"],
        "https://example.org/code",
        "a restart keeps the card"
    );
    assert_eq!(send(&host, &mine, "DELETE", path, &json!({})).status, 204);
    assert_eq!(host.get(path).status, 404);
}

#[test]
fn a_private_model_is_to_others_as_if_it_did_not_exist() {
    let host = Host::start();
    assert_eq!(host.post("/v1/models", &new_model("actor", "private")).status, 201);
    let id = host.actor();
    let other = host.token("other", &["read", "predict", "publish"]);
    let ask = |method: &str, path: &str| {
        let body = json!({"version": id, "input": {"do": "echo"}, "do": "echo"});
        let reply = send(&host, &other, method, path, &body);
        (reply.status, reply.text().replace("nothing", "actor"))
    };
    for (method, tail) in [
        ("GET", ""),
        ("PATCH", ""),
        ("DELETE", ""),
        ("GET", "/versions"),
        ("GET", "/readme"),
        ("GET", "/examples"),
        ("POST", "/run"),
        ("POST", "/predictions"),
        ("GET", "/versions/latest"),
        ("DELETE", "/versions/latest"),
        ("GET", "/versions/latest/openapi.json"),
        ("POST", "/versions/latest/run"),
        ("POST", "/versions/latest/trainings"),
    ] {
        let hidden = ask(method, &format!("/v1/models/me/actor{tail}"));
        assert_eq!(
            hidden,
            ask(method, &format!("/v1/models/me/nothing{tail}")),
            "{method} {tail}"
        );
        assert_eq!(hidden.0, 404);
    }
    let by_id = ask("POST", "/v1/predictions");
    assert_eq!(by_id.0, 422, "an id is no way around");
    assert_eq!(
        ask("GET", "/v1/models").1,
        r#"{"next":null,"previous":null,"results":[]}"#
    );
    assert!(!ask("GET", "/v1/search?query=actor").1.contains("me/actor"));
    let mine = host.token("me", &["read", "predict"]);
    assert_eq!(send(&host, &mine, "GET", "/v1/models/me/actor", &json!({})).status, 200);
    assert_eq!(host.get("/v1/models/me/actor").json()["visibility"], "private");
}

#[test]
fn a_version_goes_only_if_nobody_relies_on_it() {
    let host = Host::start();
    let id = host.actor();
    let path = format!("/v1/models/me/actor/versions/{id}");
    let remove = || host.send("DELETE", &path, &[], b"");
    assert_eq!(
        host.put(
            "/v1/models/me/actor/aliases/stable",
            json!({"version": id}).to_string().as_bytes()
        )
        .status,
        200
    );
    assert!(remove().problem().contains("`stable`"));
    let second = host.publish("actor", "2.0.0", &maquette_fixtures::echo(), &["latest", "stable"]);
    assert_eq!(second.status, 201, "{second:?}");
    let deployment = json!({"name": "live", "model": "me/actor", "version": id, "hardware": "cpu", "min_instances": 0, "max_instances": 1});
    assert_eq!(host.post("/v1/deployments", &deployment).status, 200);
    assert!(remove().problem().contains("deployment"));
    assert_eq!(host.send("DELETE", "/v1/deployments/admin/live", &[], b"").status, 204);
    let other = host.token("other", &["predict"]);
    let body = json!({"version": id, "input": {"do": "echo"}}).to_string();
    assert_eq!(
        host.send_as(&other, "POST", "/v1/predictions", &[], body.as_bytes())
            .status,
        201
    );
    assert!(remove().problem().contains("others"));
    let model = host.send("DELETE", "/v1/models/me/actor", &[], b"");
    assert_eq!(model.status, 409);
    let newest = second.json()["id"].as_str().unwrap().to_owned();
    let newest = format!("/v1/models/me/actor/versions/{newest}");
    assert!(host.send("DELETE", &newest, &[], b"").problem().contains("`stable`"));
    host.put(
        "/v1/models/me/actor/aliases/stable",
        json!({"version": id}).to_string().as_bytes(),
    );
    let figures = || host.get("/metrics").text();
    let newest_id = second.json()["id"].as_str().unwrap().to_owned();
    assert!(figures().contains(&newest_id));
    assert_eq!(host.send("DELETE", &newest, &[], b"").status, 202);
    assert_eq!(host.get(&newest).status, 404);
    assert!(!figures().contains(&newest_id), "no figure is left of it");
    assert_eq!(
        host.get("/v1/models/me/actor").json()["latest_version"]["id"],
        id,
        "the newest that is left"
    );
}

#[test]
fn a_publish_beside_the_removal_of_its_model_does_not_make_it_again() {
    let gate = tempfile::tempdir().unwrap();
    let (begun, go) = (gate.path().join("begun"), gate.path().join("go"));
    // Whatever is compiled waits until it may.
    let script = format!(
        "touch {}; while [ ! -e {} ]; do sleep 0.02; done; exec \"$0\" \"$@\"",
        begun.display(),
        go.display()
    );
    let host = Host::with(|config| {
        let program = std::mem::replace(&mut config.prepare.program, "/bin/sh".into());
        config.prepare.args = vec!["-c".to_owned(), script, program.display().to_string()];
    });
    let component = maquette_fixtures::echo();
    for made_again in [false, true] {
        let _ = std::fs::remove_file(&begun);
        let _ = std::fs::remove_file(&go);
        assert_eq!(host.post("/v1/models", &new_model("echo", "private")).status, 201);
        let number = if made_again { "2.0.0" } else { "1.0.0" };
        std::thread::scope(|scope| {
            let publishing = scope.spawn(|| host.publish("echo", number, &component, &["latest"]));
            while !begun.exists() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            assert_eq!(host.send("DELETE", "/v1/models/me/echo", &[], b"").status, 204);
            if made_again {
                assert_eq!(host.post("/v1/models", &new_model("echo", "private")).status, 201);
            }
            std::fs::write(&go, "").unwrap();
            let reply = publishing.join().unwrap();
            assert_eq!(reply.status, 409, "{reply:?}");
            assert!(reply.problem().contains("this model was removed"), "{reply:?}");
        });
        let (status, versions) = if made_again {
            (200, json!(0))
        } else {
            (404, Value::Null)
        };
        let model = host.get("/v1/models/me/echo");
        assert_eq!((model.status, &model.json()["versions"]), (status, &versions));
    }
    assert_eq!(host.publish("echo", "2.0.0", &component, &["latest"]).status, 201);
    assert_eq!(host.get("/v1/models/me/echo").json()["visibility"], "private");
}

#[test]
fn an_owner_has_at_most_a_thousand_models_however_they_are_made() {
    let host = Host::start();
    let echo = maquette_fixtures::echo();
    assert_eq!(host.publish("first", "1.0.0", &echo, &["latest"]).status, 201);
    let folder = host.stop().unwrap();
    let database = rusqlite::Connection::open(folder.path().join("maquette.db")).unwrap();
    for n in 0..998 {
        let sql = "INSERT INTO models (name, created_at) VALUES (?1, 0)";
        database.execute(sql, [format!("me/m{n}")]).unwrap();
    }
    drop(database);
    let host = Host::open(common::config(folder.path()));
    assert_eq!(host.publish("second", "1.0.0", &echo, &["latest"]).status, 201);
    for reply in [
        host.publish("third", "1.0.0", &echo, &["latest"]),
        host.post("/v1/models", &new_model("third", "public")),
    ] {
        assert_eq!(
            (reply.status, &reply.json()["code"]),
            (422, &json!("too-many")),
            "{reply:?}"
        );
        assert!(reply.problem().contains("at most 1000 models"), "{reply:?}");
    }
    assert_eq!(host.get("/v1/models/me/third").status, 404);
    assert_eq!(host.publish("first", "2.0.0", &echo, &["latest"]).status, 201);
    let mut others = new_model("third", "public");
    others["owner"] = "me2".into();
    assert_eq!(host.post("/v1/models", &others).status, 201, "others have their own");
}

#[test]
fn a_search_is_understood_in_every_clients_dialect() {
    let host = Host::start();
    host.actor();
    host.post("/v1/models", &new_model("echo", "public"));
    let names = |body: &Value| {
        let names = body["results"].as_array().unwrap().iter();
        names
            .map(|model| model["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for (content_type, body) in [
        ("text/plain", "echo"),
        ("application/json", "\"echo\""),
        ("text/plain", "\"echo\""),
    ] {
        let reply = host.send(
            "QUERY",
            "/v1/models",
            &[("content-type", content_type)],
            body.as_bytes(),
        );
        assert_eq!(
            (reply.status, names(&reply.json())),
            (200, vec!["echo".to_owned()]),
            "{body}"
        );
    }
    assert_eq!(host.send("QUERY", "/v1/models", &[], &[b'x'; 5000]).status, 413);
    assert_eq!(host.send("QUERY", "/v1/predictions", &[], b"x").status, 405);
    let found = host.get("/v1/search?query=again&limit=1").json();
    assert_eq!(
        (found["query"].as_str(), &found["models"][0]["model"]["name"]),
        (Some("again"), &json!("echo"))
    );
    assert!(found["collections"].is_array() && found["pages"].is_array());
    let missing = host.get("/v1/search");
    assert_eq!(
        (missing.status, missing.problem().as_str()),
        (400, "Query parameter \"query\" is required")
    );
    assert_eq!(host.get("/v1/search?query=x&limit=0").status, 400);
}

#[test]
fn a_deployments_releases_are_counted_and_it_runs_what_the_last_one_names() {
    let host = Host::start();
    let first = host.actor();
    let second = host.publish("actor", "2.0.0", &maquette_fixtures::echo(), &[]).json();
    let second = second["id"].as_str().unwrap().to_owned();
    let mine = host.token("someone", &["read", "predict"]);
    let new = |version: &str| json!({"name": "live", "model": "me/actor", "version": version, "hardware": "cpu", "min_instances": 0, "max_instances": 3});
    let made = send(&host, &mine, "POST", "/v1/deployments", &new(&first));
    assert_eq!(made.status, 200, "{made:?}");
    let release = |reply: &Reply| {
        let release = reply.json()["current_release"].clone();
        (
            release["number"].as_u64().unwrap(),
            release["version"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(release(&made), (1, first.clone()));
    assert_eq!(send(&host, &mine, "POST", "/v1/deployments", &new(&first)).status, 409);
    let path = "/v1/deployments/someone/live";
    let run = |host: &Host| {
        let body = json!({"input": {"do": "echo", "text": "x"}}).to_string();
        host.send_as(
            &mine,
            "POST",
            &format!("{path}/predictions"),
            &[("prefer", "wait")],
            body.as_bytes(),
        )
        .json()
    };
    let ran = run(&host);
    assert_eq!(
        (ran["version"].as_str(), ran["deployment"].as_str()),
        (Some(first.as_str()), Some("someone/live")),
        "{ran}"
    );
    let changed = send(
        &host,
        &mine,
        "PATCH",
        path,
        &json!({"version": second, "max_instances": 20}),
    );
    assert_eq!(release(&changed), (2, second.clone()));
    assert_eq!(changed.json()["current_release"]["configuration"]["max_instances"], 20);
    assert_eq!(run(&host)["version"], second);
    for wrong in [
        json!({"version": "ab".repeat(32)}),
        json!({"version": "latest"}),
        json!({"hardware": "abacus"}),
        json!({"min_instances": 6}),
        json!({"max_instances": 21}),
        json!({"min_instances": -1}),
    ] {
        assert_eq!(send(&host, &mine, "PATCH", path, &wrong).status, 422, "{wrong}");
    }
    assert_eq!(host.get(path).status, 404, "not even an admin's: it is another owner's");
    let folder = host.stop();
    let host = Host::open(common::config(folder.as_ref().unwrap().path()));
    assert_eq!(release(&host.send_as(&mine, "GET", path, &[], b"")), (2, second));
    let listed = host.send_as(&mine, "GET", "/v1/deployments", &[], b"").json();
    assert_eq!(listed["results"].as_array().unwrap().len(), 1);
    assert_eq!(host.send_as(&mine, "DELETE", path, &[], b"").status, 204);
    assert_eq!(host.send_as(&mine, "GET", path, &[], b"").status, 404);
    assert_eq!(
        host.send_as(&mine, "POST", &format!("{path}/predictions"), &[], b"{}")
            .status,
        404
    );
}

#[test]
fn collections_hardware_account_and_trainings_answer_as_clients_expect() {
    let host = Host::start();
    let id = host.actor();
    let put = |slug: &str, body: Value| host.put(&format!("/v1/collections/{slug}"), body.to_string().as_bytes());
    assert_eq!(
        put(
            "best",
            json!({"name": "Best", "description": "Ours", "models": ["me/actor"]})
        )
        .status,
        200
    );
    assert_eq!(put("bad", json!({"name": "Bad", "models": ["me/nothing"]})).status, 422);
    let listed = host.get("/v1/collections").json();
    assert_eq!(
        listed["results"],
        json!([{"name": "Best", "slug": "best", "description": "Ours"}])
    );
    assert_eq!(host.get("/v1/collections/best").json()["models"][0]["name"], "actor");
    assert_eq!(host.get("/v1/collections/none").status, 404);
    let reader = host.token("r", &["read"]);
    assert_eq!(
        host.send_as(&reader, "DELETE", "/v1/collections/best", &[], b"").status,
        403
    );
    assert_eq!(host.send("DELETE", "/v1/collections/best", &[], b"").status, 204);

    assert_eq!(host.get("/v1/hardware").json(), json!([{"sku": "cpu", "name": "CPU"}]));
    let account = host.send_as(&reader, "GET", "/v1/account", &[], b"").json();
    assert_eq!(
        (
            account["type"].as_str(),
            account["username"].as_str(),
            account["name"].as_str()
        ),
        (Some("user"), Some("r"), Some("r"))
    );
    assert_eq!(host.get("/v1/trainings").json()["results"], json!([]));
    assert_eq!(host.get("/v1/trainings/x").status, 404);
    let train = |destination: &str| {
        let path = format!("/v1/models/me/actor/versions/{id}/trainings");
        host.post(&path, &json!({"destination": destination, "input": {}}))
    };
    let nowhere = train("me/nothing");
    assert_eq!(
        (nowhere.status, nowhere.problem().as_str()),
        (404, "The specified training destination does not exist")
    );
    assert_eq!(train("me/actor").status, 422);
}

#[test]
fn models_are_paged_in_the_order_that_was_asked_for() {
    let host = Host::start();
    for name in ["b", "a", "c"] {
        assert_eq!(host.post("/v1/models", &new_model(name, "public")).status, 201);
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
    host.actor();
    let all = |query: &str| {
        let mut path = format!("/v1/models?limit=1{query}");
        let mut names = Vec::new();
        loop {
            let page = host.get(&path).json();
            names.extend(
                page["results"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|m| m["name"].as_str().unwrap().to_owned()),
            );
            match page["next"].as_str() {
                Some(next) => path = next.strip_prefix("http://test.local").unwrap().to_owned(),
                None => return names,
            }
        }
    };
    assert_eq!(all(""), ["actor", "c", "a", "b"]);
    assert_eq!(
        all("&sort_by=model_created_at&sort_direction=asc"),
        ["b", "a", "c", "actor"]
    );
    assert_eq!(host.get("/v1/models?sort_by=name").status, 400);
    assert_eq!(host.get("/v1/models?sort_direction=up").status, 400);
}

#[test]
fn a_token_ends_when_it_should_and_shows_when_it_was_used() {
    let host = Host::start();
    let make = |expires_at: &str| {
        host.post(
            "/v1/tokens",
            &json!({"owner": "o", "scopes": ["read"], "expires_at": expires_at}),
        )
    };
    assert_eq!(make("2020-01-01T00:00:00Z").status, 422);
    assert_eq!(make("soon").status, 422);
    let kept = make("2090-01-01T00:00:00Z").json();
    let token = kept["token"].as_str().unwrap();
    let shown = || {
        let tokens = host.get("/v1/tokens").json();
        tokens["results"]
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["id"] == kept["id"])
            .unwrap()
            .clone()
    };
    assert_eq!(
        (shown()["last_used_at"].clone(), shown()["expires_at"].as_str()),
        (Value::Null, Some("2090-01-01T00:00:00.000Z"))
    );
    assert_eq!(host.send_as(token, "GET", "/v1/models", &[], b"").status, 200);
    assert!(shown()["last_used_at"].is_string());
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let soon = now.as_secs() + 2;
    let days = soon / 86_400;
    let of_day = soon % 86_400;
    // Only the time of day is needed here; the date comes from a token made now.
    let today = &shown()["created_at"].as_str().unwrap()[..10].to_owned();
    let at = format!(
        "{today}T{:02}:{:02}:{:02}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60
    );
    if days == now.as_secs() / 86_400 {
        let short = make(&at).json();
        let short = short["token"].as_str().unwrap();
        let mut statuses = Vec::new();
        for _ in 0..100 {
            statuses.push(host.send_as(short, "GET", "/v1/models", &[], b"").status);
            if statuses.last() == Some(&401) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        assert_eq!((statuses[0], statuses.last()), (200, Some(&401)));
    }
}

/// Sends requests at one time, as an admin; their replies in the same order.
fn send_at_once(host: &Host, requests: &[(&str, &str, Value)]) -> Vec<Reply> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = requests
            .iter()
            .map(|(method, path, body)| scope.spawn(|| send(host, &host.token, method, path, body)))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn changes_at_one_time_are_all_kept_and_one_name_is_made_once() {
    let host = Host::start();
    let at_once = |requests: &[(&str, &str, Value)]| send_at_once(&host, requests);
    for round in 0..20 {
        let name = format!("m{round}");
        let path = format!("/v1/models/me/{name}");
        let new = || ("POST", "/v1/models", new_model(&name, "public"));
        let mut made: Vec<u16> = at_once(&[new(), new(), new()]).iter().map(|r| r.status).collect();
        made.sort_unstable();
        assert_eq!(made, [201, 409, 409]);
        let changed = at_once(&[
            ("PATCH", &path, json!({"readme": "r"})),
            ("PATCH", &path, json!({"paper_url": "https://example.org/p"})),
            ("PATCH", &path, json!({"visibility": "private"})),
        ]);
        assert!(changed.iter().all(|reply| reply.status == 200), "{changed:?}");
        let model = host.get(&path).json();
        assert_eq!(
            (model["paper_url"].as_str(), model["visibility"].as_str()),
            (Some("https://example.org/p"), Some("private"))
        );
        assert_eq!(host.get(&format!("{path}/readme")).text(), "r");
        let ended = at_once(&[
            ("DELETE", &path, json!({})),
            ("PATCH", &path, json!({"readme": "again"})),
        ]);
        assert_eq!(ended[0].status, 204);
        assert!(matches!(ended[1].status, 200 | 404), "{:?}", ended[1]);
        assert_eq!(
            host.get(&path).status,
            404,
            "what is removed is not made again by a change"
        );
    }
}

#[test]
fn a_removal_and_what_pins_a_version_at_one_time_see_each_other() {
    let host = Host::start();
    let kept = host.actor();
    let publish = || host.publish("actor", "2.0.0", &maquette_fixtures::echo(), &[]);
    let id = publish().json()["id"].as_str().unwrap().to_owned();
    let version = format!("/v1/models/me/actor/versions/{id}");
    let (alias, live) = ("/v1/models/me/actor/aliases/stable", "/v1/deployments/admin/live");
    let deployment = json!({"name": "live", "model": "me/actor", "version": id, "hardware": "cpu", "min_instances": 0, "max_instances": 1});
    let mut removed = 0;
    for round in 0..12 {
        // Each of them is first now and then.
        let mut requests = [
            ("DELETE", version.as_str(), json!({})),
            ("PUT", alias, json!({"version": id})),
            ("POST", "/v1/deployments", deployment.clone()),
        ];
        requests.rotate_left(round % 3);
        let mut replies = send_at_once(&host, &requests);
        replies.rotate_right(round % 3);
        let [removal, pinned, deployed] = &replies[..] else {
            unreachable!()
        };
        let aliases = host.get("/v1/models/me/actor").json()["aliases"].clone();
        if removal.status == 202 {
            removed += 1;
            assert!(matches!(pinned.status, 404 | 409), "{pinned:?}");
            assert!(matches!(deployed.status, 409 | 422), "{deployed:?}");
            assert_eq!((host.get(&version).status, host.get(live).status), (404, 404));
            assert_ne!(aliases["stable"], id.as_str());
            assert_eq!(publish().status, 201);
            continue;
        }
        assert_eq!(removal.status, 409, "{removal:?}");
        assert!(
            pinned.status == 200 || deployed.status == 200,
            "{pinned:?} {deployed:?}"
        );
        assert_eq!(host.get(&version).status, 200);
        host.send("DELETE", live, &[], b"");
        assert_eq!(
            send(&host, &host.token, "PUT", alias, &json!({"version": kept})).status,
            200
        );
    }
    println!("{removed} of 12 removals came first");
}

#[test]
fn a_version_that_somebody_elses_prediction_runs_stays() {
    let host = Host::start();
    let id = host.actor();
    let other = host.token("other", &["predict"]);
    let body = json!({"version": id, "input": {"do": "loop"}});
    let made = send(&host, &other, "POST", "/v1/predictions", &body).json();
    let kept = host.send("DELETE", &format!("/v1/models/me/actor/versions/{id}"), &[], b"");
    assert!(kept.problem().contains("others have run this version"));
    let cancel = format!("/v1/predictions/{}/cancel", made["id"].as_str().unwrap());
    assert_eq!(send(&host, &other, "POST", &cancel, &json!({})).status, 200);
}

#[test]
fn when_there_are_as_many_collections_as_there_may_be_each_can_still_be_changed() {
    let host = Host::start();
    let put = |slug: usize, name: &str| {
        let body = json!({"name": name, "models": []});
        send(&host, &host.token, "PUT", &format!("/v1/collections/c{slug}"), &body).status
    };
    std::thread::scope(|scope| {
        let put = &put;
        for part in 0..20 {
            scope.spawn(move || (0..50).for_each(|i| assert_eq!(put(part * 50 + i, "first"), 200)));
        }
    });
    assert_eq!(put(1000, "one too many"), 422);
    assert_eq!(put(7, "changed"), 200);
    assert_eq!(host.get("/v1/collections/c7").json()["name"], "changed");
    assert_eq!(host.send("DELETE", "/v1/collections/c8", &[], b"").status, 204);
    assert_eq!(put(1000, "in its place"), 200);
}

#[test]
fn a_search_names_no_model_that_the_caller_may_not_know_of() {
    let host = Host::start();
    assert_eq!(host.post("/v1/models", &new_model("hidden", "private")).status, 201);
    assert_eq!(host.post("/v1/models", &new_model("shown", "public")).status, 201);
    let picks = json!({"name": "Picks", "models": ["me/hidden", "me/shown"]}).to_string();
    assert_eq!(host.put("/v1/collections/picks", picks.as_bytes()).status, 200);
    let other = host.token("other", &["read"]);
    let found = host.send_as(&other, "GET", "/v1/search?query=picks", &[], b"").json();
    assert_eq!(found["collections"][0]["models"], json!(["me/shown"]));
    let collection = host.send_as(&other, "GET", "/v1/collections/picks", &[], b"").json();
    assert_eq!(collection["models"].as_array().unwrap().len(), 1);
    assert_eq!(host.send_as(&other, "GET", "/metrics", &[], b"").status, 403);
}

#[test]
fn a_version_that_others_ran_directly_stays_and_what_is_said_of_a_model_is_its_newest_versions() {
    let host = Host::start();
    let first = host.actor();
    let mut manifest = host.manifest("actor", "2.0.0", &maquette_fixtures::echo());
    manifest["description"] = "the second".into();
    let second = host
        .post("/v1/models/me/actor/versions", &json!({"manifest": manifest}))
        .json();
    assert_eq!(host.get("/v1/models/me/actor").json()["description"], "the second");
    let second = format!("/v1/models/me/actor/versions/{}", second["id"].as_str().unwrap());
    let other = host.token("other", &["predict"]);
    let run = format!("/v1/models/me/actor/versions/{first}/run");
    let ran = host.send_as(&other, "POST", &run, &[], br#"{"do":"echo"}"#);
    assert_eq!(ran.status, 200);
    let kept = host.send("DELETE", &format!("/v1/models/me/actor/versions/{first}"), &[], b"");
    assert!(kept.problem().contains("others have run this version"));
    assert_eq!(host.send("DELETE", &second, &[], b"").status, 202);
    assert_eq!(host.get("/v1/models/me/actor").json()["description"], "");
}

#[test]
fn when_a_token_was_used_outlives_a_stop() {
    let host = Host::start();
    let made = host
        .post("/v1/tokens", &json!({"owner": "o", "scopes": ["read"]}))
        .json();
    host.send_as(made["token"].as_str().unwrap(), "GET", "/v1/models", &[], b"");
    let used = |host: &Host, id: &Value| {
        let tokens = host.get("/v1/tokens").json();
        let token = tokens["results"]
            .as_array()
            .unwrap()
            .iter()
            .find(|t| t["id"] == *id)
            .cloned()
            .unwrap();
        (token["last_used_at"].clone(), token["created_at"].clone())
    };
    let (used_at, created_at) = used(&host, &made["id"]);
    assert!(used_at.is_string());
    let admin_since = used(&host, &json!("admin.token")).1;
    let folder = host.stop();
    let host = Host::open(common::config(folder.as_ref().unwrap().path()));
    assert_eq!(used(&host, &made["id"]), (used_at, created_at));
    assert_eq!(used(&host, &json!("admin.token")).1, admin_since);
}

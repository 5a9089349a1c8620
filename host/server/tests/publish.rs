//! Publishing over real sockets: what becomes visible, and what never does.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write as _;
use std::time::Duration;

use common::{Host, actor, connect, head};
use maquette_package::Digest;
use serde_json::{Value, json};

/// A case of the actor.
fn case(name: &str, input: &Value, output: &Value) -> Vec<u8> {
    json!({"name": name, "input": input, "output": output, "tolerance": 1e-5})
        .to_string()
        .into_bytes()
}

/// Asserts that nothing is visible of `me/actor`.
fn nothing_visible(host: &Host) {
    assert_eq!(host.get("/v1/models").json()["results"], json!([]));
    assert_eq!(host.run(&json!({"do": "echo"})).status, 404);
}

#[test]
fn a_version_passes_its_cases_and_is_visible_with_its_aliases() {
    let host = Host::start();
    let mut manifest = host.manifest("actor", "1.0.0", &actor());
    manifest["description"] = "does what it is told".into();
    manifest["cases"] = json!([
        host.blob(&case(
            "echo",
            &json!({"do": "echo", "n": 5}),
            &json!({"do": "echo", "n": 5})
        )),
        host.blob(&case("many", &json!({"do": "many"}), &json!([1, 2, 3.000001]))),
    ]);
    manifest["readme"] = host.blob(b"# Actor");
    let body = json!({"manifest": manifest, "aliases": ["latest", "stable"]});
    let reply = host.post("/v1/models/me/actor/versions", &body);
    assert_eq!(reply.status, 201, "{reply:?}");
    let answer = reply.json();
    let id = answer["id"].as_str().unwrap();
    assert_eq!(answer["aliases"], json!(["1.0.0", "latest", "stable"]));
    assert_eq!(reply.header("location"), answer["url"].as_str());

    let model = host.get("/v1/models/me/actor").json();
    assert_eq!(model["description"], "does what it is told");
    assert_eq!(model["aliases"], json!({"1.0.0": id, "latest": id, "stable": id}));
    let version = host.get("/v1/models/me/actor/versions/stable").json();
    assert_eq!(
        (version["id"].as_str(), version["readme"].as_str()),
        (Some(id), Some("# Actor"))
    );
    assert_eq!(version["input_schema"]["properties"]["n"]["default"], 3);
    assert_eq!(version["manifest"]["cases"].as_array().unwrap().len(), 2);
    let api = host
        .get(&format!("/v1/models/me/actor/versions/{id}/openapi.json"))
        .json();
    assert_eq!(api["openapi"], "3.1.0");
    assert_eq!(api["components"]["schemas"]["Input"]["required"], json!(["do"]));
    assert!(api["paths"][format!("/v1/models/me/actor/versions/{id}/run")]["post"].is_object());

    let again = host.post("/v1/models/me/actor/versions", &body);
    assert_eq!(
        (again.status, again.json()["id"].as_str()),
        (200, Some(id)),
        "publishing again changes nothing"
    );
    assert_eq!(
        host.get("/v1/models/me/actor/versions").json()["results"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn only_missing_blobs_have_to_travel() {
    let host = Host::start();
    let (here, there) = (host.blob(b"here"), Digest::of(b"there").to_string());
    let here = here["sha256"].as_str().unwrap();
    let reply = host.post("/v1/publish/missing", &json!({"digests": [here, there]}));
    assert_eq!(reply.json(), json!({"missing": [there]}));
    assert_eq!(
        host.put(&format!("/v1/blobs/{here}"), b"here").status,
        200,
        "sending it again is no error"
    );
    for bad in ["", "xyz", &"A".repeat(64), "../../etc/passwd"] {
        let reply = host.post("/v1/publish/missing", &json!({"digests": [bad]}));
        assert_eq!(reply.status, 422, "{bad}");
        reply.problem();
    }
}

#[test]
fn a_blob_whose_digest_lies_is_refused_naming_both() {
    let host = Host::with(|c| c.max_blob_bytes = 1000);
    let claimed = Digest::of(b"what was promised").to_string();
    let reply = host.put(&format!("/v1/blobs/{claimed}"), b"what came");
    assert_eq!(reply.status, 422);
    let detail = reply.problem();
    let came = Digest::of(b"what came");
    assert_eq!(
        detail,
        format!(
            "what was received (9 bytes) has the sha256 {came}, expected {claimed}; send the bytes that the digest was computed from"
        )
    );
    let missing = host.post("/v1/publish/missing", &json!({"digests": [claimed]}));
    assert_eq!(missing.json(), json!({"missing": [claimed]}), "nothing of it is kept");
    assert_eq!(host.put(&format!("/v1/blobs/{claimed}"), &[0; 1001]).status, 413);
    assert_eq!(host.put("/v1/blobs/..%2f..%2fetc%2fpasswd", b"x").status, 422);
}

#[test]
fn an_upload_that_is_cut_off_leaves_nothing() {
    let host = Host::start();
    let digest = Digest::of(b"0123456789").to_string();
    let mut stream = connect(host.address);
    let authorization = format!("Bearer {}", host.token);
    let headers = [("authorization", authorization.as_str()), ("content-length", "10")];
    stream
        .write_all(&head("PUT", &format!("/v1/blobs/{digest}"), &headers))
        .unwrap();
    stream.write_all(b"01234").unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(stream);
    std::thread::sleep(Duration::from_millis(100));
    let missing = host.post("/v1/publish/missing", &json!({"digests": [digest]}));
    assert_eq!(missing.json(), json!({"missing": [digest]}));
    assert_eq!(std::fs::read_dir(host.data().join("blobs/tmp")).unwrap().count(), 0);
    assert_eq!(host.put(&format!("/v1/blobs/{digest}"), b"0123456789").status, 201);
}

#[test]
fn an_owner_has_so_many_uploads_under_way_and_no_more() {
    let host = Host::start();
    let begin = |token: &str, n: usize| {
        let mut stream = connect(host.address);
        let authorization = format!("Bearer {token}");
        let headers = [("authorization", authorization.as_str()), ("content-length", "10")];
        let path = format!("/v1/blobs/{}", Digest::of(n.to_string().as_bytes()));
        stream.write_all(&head("PUT", &path, &headers)).unwrap();
        stream.write_all(b"01234").unwrap();
        stream
    };
    let (mine, other) = (host.token("me", &["publish"]), host.token("other", &["publish"]));
    let open: Vec<_> = (0..8).map(|n| begin(&mine, n)).collect();
    let put = |token: &str| {
        let path = format!("/v1/blobs/{}", Digest::of(b"blob"));
        host.send_as(token, "PUT", &path, &[], b"blob")
    };
    let arriving = || std::fs::read_dir(host.data().join("blobs/tmp")).unwrap().count();
    let wait_for = |files: usize| {
        while arriving() != files {
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    wait_for(8);
    let refused = put(&mine);
    assert_eq!(
        (refused.status, refused.json()["code"].as_str()),
        (429, Some("too-many-uploads")),
        "{refused:?}"
    );
    assert_eq!(put(&other).status, 201, "others have places of their own");
    drop(open);
    wait_for(0);
    assert_eq!(put(&mine).status, 200);
}

#[test]
fn a_publish_that_fails_names_its_step_and_leaves_nothing_visible() {
    let host = Host::start();
    let good = host.manifest("actor", "1.0.0", &actor());
    let with = |change: &dyn Fn(&mut Value)| {
        let mut manifest = good.clone();
        change(&mut manifest);
        manifest
    };
    let absent = "ab".repeat(32);
    let wrong_case = host.blob(&case("wrong", &json!({"do": "echo"}), &json!({"do": "echo", "n": 4})));
    let trapping_case = host.blob(&case("traps", &json!({"do": "trap"}), &json!(1)));
    let misfit_case = host.blob(&case("misfit", &json!({"do": "dance"}), &json!(1)));
    let garbage = host.blob(b"\0asm garbage");
    let evil = host.blob(&evil_component());
    let size_that_lies = format!(
        "the blob {} has {} bytes, the manifest says 7",
        good["component"]["sha256"].as_str().unwrap(),
        good["component"]["size"]
    );
    let cases: Vec<(&str, Value, &str, &str)> = vec![
        (
            "no manifest",
            json!("x"),
            "manifest",
            "manifest line 1 column 3: invalid type: string \"x\", expected struct VersionManifest; send a version's manifest as \
             `maquette publish` writes it",
        ),
        (
            "an unknown field",
            with(&|m| m["limits"]["extra"] = 1.into()),
            "manifest",
            "",
        ),
        (
            "another name",
            with(&|m| m["name"] = "other".into()),
            "manifest",
            "it names the model `other`, the path names `actor`",
        ),
        (
            "no semver",
            with(&|m| m["version"] = "one".into()),
            "manifest",
            "version: `one` is not a semantic version (unexpected character 'o' while parsing major version number); write three \
             numbers, such as `1.0.0`",
        ),
        (
            "a blob that was not sent",
            with(&|m| m["component"]["sha256"] = absent.clone().into()),
            "blobs",
            "1 blobs are not stored: send them with PUT /v1/blobs/{sha256} first",
        ),
        (
            "a size that lies",
            with(&|m| m["component"]["size"] = 7.into()),
            "blobs",
            &size_that_lies,
        ),
        (
            "no component",
            with(&|m| m["component"] = garbage.clone()),
            "prepare",
            "the component is not valid: unknown binary version: 0x72616720 at byte 0x4; it is damaged or cut off: build it and send \
             it again",
        ),
        (
            "a forbidden import",
            with(&|m| m["component"] = evil.clone()),
            "prepare",
            "the component imports `wasi:sockets/tcp@0.2.0`, which models may not use; models have no network: send what they need as \
             input, weights or assets",
        ),
        (
            "a wrong case",
            with(&|m| m["cases"] = json!([wrong_case])),
            "cases",
            "case `wrong`: $.n: expected 4, found 3: off by 1.000e0, allowed 1.000e-5",
        ),
        (
            "a case that traps",
            with(&|m| m["cases"] = json!([wrong_case, trapping_case])),
            "cases",
            "2 of 2 cases fail; `wrong`: $.n: expected 4, found 3: off by 1.000e0, allowed 1.000e-5",
        ),
        (
            "a case that does not fit",
            with(&|m| m["cases"] = json!([misfit_case])),
            "cases",
            "case `misfit`: the input does not fit the model's input schema: do: \"dance\" is not one of [\"echo\", \"trap\", \"loop\", \
             \"grow\", \"invalid\", \"shape\", \"big\", \"many\", \"wait\", \"xjson\", \"never\"]",
        ),
    ];
    for (what, manifest, step, detail) in cases {
        let reply = host.post("/v1/models/me/actor/versions", &json!({"manifest": manifest}));
        assert_eq!(reply.status, 422, "{what}: {reply:?}");
        let told = reply.problem();
        if what == "an unknown field" {
            // Where it stands depends on the component's size.
            let told = told.split_once(" column ").unwrap().1.split_once(": ").unwrap().1;
            assert_eq!(
                told,
                "unknown field `extra`, expected one of `timeout_ms`, `memory_bytes`, `tensor_bytes`, `output_bytes`, `file_bytes`, \
                 `log_bytes`; send a version's manifest as `maquette publish` writes it"
            );
        } else {
            assert_eq!(told, format!("{step}: {detail}"), "{what}");
        }
        assert_eq!(reply.json()["step"], step, "{what}: {reply:?}");
    }
    let unsent = host.post(
        "/v1/models/me/actor/versions",
        &json!({"manifest": with(&|m| m["component"]["sha256"] = absent.clone().into())}),
    );
    assert_eq!(unsent.json()["missing"], json!([absent]), "which they are");
    let claimed = json!({"manifest": good, "id": absent});
    let reply = host.post("/v1/models/me/actor/versions", &claimed);
    assert_eq!(
        (reply.status, reply.json()["step"].as_str().unwrap()),
        (422, "manifest")
    );
    for alias in ["", "a/b", &absent] {
        let reply = host.post(
            "/v1/models/me/actor/versions",
            &json!({"manifest": good, "aliases": [alias]}),
        );
        assert_eq!(reply.status, 422, "{alias}");
    }
    nothing_visible(&host);
    assert_eq!(
        host.post("/v1/models/me/actor/versions", &json!({"manifest": good}))
            .status,
        201
    );
}

fn evil_component() -> Vec<u8> {
    // (component (import "wasi:sockets/tcp@0.2.0" (instance))): a type section with an empty instance type, and the import.
    let name = b"wasi:sockets/tcp@0.2.0";
    let mut bytes = b"\0asm\x0d\0\x01\0".to_vec();
    bytes.extend([7, 3, 1, 0x42, 0]);
    bytes.extend([
        10,
        u8::try_from(name.len() + 5).unwrap(),
        1,
        0,
        u8::try_from(name.len()).unwrap(),
    ]);
    bytes.extend(name);
    bytes.extend([5, 0]);
    bytes
}

#[test]
fn a_component_that_wastes_the_compilers_time_is_refused() {
    let host = Host::with(|c| c.prepare.timeout = Duration::from_secs(2));
    let looping = maquette_fixtures::component(
        "",
        "(func $load (result i32) (loop $forever (br $forever)) (i32.const 32))",
    );
    let mut manifest = host.manifest("actor", "1.0.0", &looping);
    manifest["limits"]["timeout_ms"] = 600_000.into();
    let reply = host.post("/v1/models/me/actor/versions", &json!({"manifest": manifest}));
    assert_eq!(reply.problem(), "prepare: it was not compiled and loaded within 2 s");
    assert_eq!(
        (reply.status, reply.json()["step"].as_str().unwrap()),
        (422, "prepare"),
        "{reply:?}"
    );
    nothing_visible(&host);
}

#[test]
fn versions_serve_side_by_side_and_aliases_move_between_them() {
    let host = Host::start();
    let one = host.publish("actor", "1.0.0", &actor(), &["latest"]).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let two = host.publish("actor", "2.0.0", &actor(), &["latest"]).json()["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_ne!(one, two);
    let served = |reference: &str| {
        let reply = host.post(
            &format!("/v1/models/me/actor/versions/{reference}/run"),
            &json!({"do": "echo"}),
        );
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.header("x-maquette-version").unwrap().to_owned()
    };
    assert_eq!(
        [served("latest"), served("1.0.0"), served("2.0.0"), served(&one)],
        [&*two, &*one, &*two, &*one]
    );
    let put = |alias: &str, version: &str| {
        let body = json!({"version": version}).to_string();
        host.put(&format!("/v1/models/me/actor/aliases/{alias}"), body.as_bytes())
            .status
    };
    assert_eq!(put("stable", "1.0.0"), 200);
    assert_eq!(put("latest", &one), 200);
    assert_eq!([served("latest"), served("stable")], [&*one, &*one]);
    assert_eq!(
        [put("latest", "9.9.9"), put(&one, "1.0.0"), put("a%20b", "1.0.0")],
        [404, 422, 422]
    );
    let page = host.get("/v1/models/me/actor/versions?limit=1").json();
    assert_eq!(page["results"][0]["id"], two.as_str(), "newest first");
    let next = page["next"].as_str().unwrap();
    let path = next.strip_prefix("http://test.local").expect("an absolute URL");
    let page = host.get(path).json();
    assert_eq!(
        (page["results"][0]["id"].as_str(), page["next"].clone()),
        (Some(one.as_str()), Value::Null)
    );
}

#[test]
fn publishing_needs_the_right_scope_and_owner() {
    let host = Host::start();
    let manifest = host.manifest("actor", "1.0.0", &actor());
    let body = json!({"manifest": manifest}).to_string();
    let publish = |token: &str| {
        host.send_as(token, "POST", "/v1/models/me/actor/versions", &[], body.as_bytes())
            .status
    };
    assert_eq!(publish(&host.token("me", &["read", "predict"])), 403);
    assert_eq!(publish(&host.token("you", &["publish"])), 403);
    assert_eq!(publish("mqt_wrong"), 401);
    nothing_visible(&host);
    assert_eq!(publish(&host.token("me", &["publish"])), 201);
    let reader = host.token("me", &["read"]);
    let digest = "ab".repeat(32);
    assert_eq!(
        host.send_as(&reader, "PUT", &format!("/v1/blobs/{digest}"), &[], b"x")
            .status,
        403
    );
    assert_eq!(
        host.send_as(&reader, "POST", "/v1/publish/missing", &[], br#"{"digests":[]}"#)
            .status,
        403
    );
}

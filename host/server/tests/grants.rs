//! What a version may use: the least of what it asks for, what is allowed and what is there; more than before needs a yes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::{Host, Reply, actor, config};
use serde_json::{Value, json};

/// Publishes the actor as a version of `me/actor` that asks for these limits.
fn publish(host: &Host, number: &str, limits: &Value, more: &Value) -> Reply {
    let mut manifest = host.manifest("actor", number, &actor());
    manifest["limits"] = limits.clone();
    let mut body = json!({"manifest": manifest});
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    host.post("/v1/models/me/actor/versions", &body)
}

fn shown(host: &Host, version: &str) -> Value {
    let reply = host.get(&format!("/v1/models/me/actor/versions/{version}"));
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()
}

#[test]
fn a_version_gets_the_least_of_what_it_asks_for_what_is_allowed_and_what_is_there_and_shows_why() {
    let host = Host::with(|config| config.grant.timeout_ms = 2000);
    let limits = json!({"timeout_ms": 5000, "memory_bytes": 1_u64 << 45, "output_bytes": 1 << 20});
    assert_eq!(publish(&host, "1.0.0", &limits, &json!({})).status, 201);
    let version = shown(&host, "1.0.0");
    let grant = &version["grant"];
    let of = |field: &str| {
        (
            grant[field]["granted"].as_u64().unwrap(),
            grant[field]["why"].as_str().unwrap().to_owned(),
        )
    };
    assert_eq!(of("timeout_ms"), (2000, "allowed".to_owned()));
    assert_eq!(grant["timeout_ms"]["asked"], 5000);
    assert_eq!(of("output_bytes"), (1 << 20, "asked".to_owned()));
    assert_eq!(of("log_bytes"), (64 << 10, "default".to_owned()));
    assert_eq!(
        of("memory_bytes").0,
        (1_u64 << 30).min(grant["memory_bytes"]["present"].as_u64().unwrap())
    );
    assert!(
        version["imports"]
            .as_array()
            .unwrap()
            .contains(&json!("maquette:model/run")),
        "{version}"
    );
    assert_eq!(&version["granted_at_publish"], grant);
    // It is what calls are held to.
    let reply = host.run(&json!({"do": "loop"}));
    assert_eq!(reply.status, 504);
    assert!(reply.problem().contains("2000 ms"), "{reply:?}");

    // What is granted follows the operator; what was granted stays on record.
    let folder = host.stop().unwrap();
    let mut other = config(folder.path());
    other.grant.timeout_ms = 1000;
    let host = Host::open(other);
    let version = shown(&host, "1.0.0");
    assert_eq!(version["grant"]["timeout_ms"]["granted"], 1000);
    assert_eq!(version["granted_at_publish"]["timeout_ms"]["granted"], 2000);
    assert!(host.run(&json!({"do": "loop"})).problem().contains("1000 ms"));
}

#[test]
fn a_publish_that_asks_for_more_than_the_version_before_says_so_and_needs_a_yes() {
    let host = Host::start();
    let limits = |timeout: u64, memory: u64| json!({"timeout_ms": timeout, "memory_bytes": memory << 20});
    assert_eq!(
        publish(&host, "1.0.0", &limits(1000, 16), &json!({})).status,
        201,
        "nothing was before it"
    );
    assert_eq!(
        publish(&host, "1.0.1", &limits(1000, 16), &json!({})).status,
        201,
        "the same"
    );
    assert_eq!(
        publish(&host, "1.0.2", &limits(900, 16), &json!({})).status,
        201,
        "less"
    );

    for more in [json!({}), json!({"accept_grants": false})] {
        let reply = publish(&host, "2.0.0", &limits(1000, 32), &more);
        assert_eq!(reply.status, 409, "{reply:?}");
        let said = reply.problem();
        assert!(
            said.contains("1.0.2") && said.contains("memory_bytes") && said.contains("accept_grants"),
            "{said}"
        );
        let body = reply.json();
        assert_eq!(
            (&body["code"], &body["step"]),
            (&json!("needs-consent"), &json!("consent"))
        );
        let grew = json!([
            {"field": "memory_bytes", "before": 16 << 20, "now": 32 << 20},
            {"field": "timeout_ms", "before": 900, "now": 1000},
        ]);
        assert_eq!(body["grew"], grew);
    }
    assert_eq!(
        host.get("/v1/models/me/actor/versions/2.0.0").status,
        404,
        "nothing is visible of it"
    );
    let yes = json!({"accept_grants": true});
    assert_eq!(publish(&host, "2.0.0", &limits(1000, 32), &yes).status, 201);
    // What is there already asks for nothing.
    assert_eq!(publish(&host, "2.0.0", &limits(1000, 32), &json!({})).status, 200);
    assert_eq!(publish(&host, "1.0.0", &limits(1000, 16), &json!({})).status, 200);

    // Another interface of the host is more as well.
    let plain = maquette_fixtures::echo();
    let put = |number: &str, component: &[u8]| {
        let manifest = host.manifest("other", number, component);
        host.post("/v1/models/me/other/versions", &json!({"manifest": manifest}))
    };
    assert_eq!(put("1.0.0", &plain).status, 201);
    let reply = put("2.0.0", &actor());
    assert_eq!(reply.status, 409, "{reply:?}");
    let grew = reply.json()["grew"][0].clone();
    assert_eq!(
        (&grew["field"], &grew["before"]),
        (&json!("imports"), &json!(["maquette:model/types"]))
    );
    assert!(
        grew["now"].as_array().unwrap().contains(&json!("maquette:model/run")),
        "{grew}"
    );
}

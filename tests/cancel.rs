//! A cancel stops a guest that would never stop by itself, soon.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::guests;
use support::random::setting;
use support::serve::Serve;

/// The most that a cancel may take here, where others use the machine as well. An idle machine takes some ten milliseconds: the
/// guest's clock ticks every five.
const MOST: Duration = Duration::from_secs(1);

#[test]
fn a_cancel_stops_a_guest_that_loops_forever() {
    let cancels = setting("MAQUETTE_CANCELS", 50);
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::start(&folder.path().join("data"), &["--lanes", "1"]);
    let version = serve.publish("worker", &guests::worker(), 60_000);
    let mut client = serve.client();
    let mut took = Vec::new();
    for n in 0..cancels {
        let body = json!({"version": version, "input": {"a": format!("l000-{n}")}});
        let made = client.post("/v1/predictions", &body).unwrap().json();
        let path = format!("/v1/predictions/{}", made["id"].as_str().unwrap());
        while client.get(&path).unwrap().json()["status"] != "processing" {
            std::thread::sleep(Duration::from_millis(1));
        }
        let asked = Instant::now();
        let ended = client.post(&format!("{path}/cancel"), &json!({})).unwrap().json();
        took.push(asked.elapsed());
        assert_eq!(ended["status"], "canceled", "the reply shows the end: {ended}");
        assert_eq!(client.get(&path).unwrap().json(), ended);
    }
    took.sort_unstable();
    let (median, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{cancels} cancels: from the request to the end on disk p50 {median:.1?}, most {most:.1?}");
    assert!(most <= MOST, "{most:?}");
    // The lane is free again.
    let body = json!({"version": version, "input": {"a": "e000"}});
    let ran = client.send(
        "POST",
        "/v1/predictions",
        &[("prefer", "wait")],
        body.to_string().as_bytes(),
    );
    assert_eq!(ran.unwrap().json()["status"], "succeeded");
}

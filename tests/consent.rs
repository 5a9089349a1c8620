//! The command line asks before it publishes what wants more than the version before, shows what is granted, and releases what is
//! quarantined.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use std::path::Path;
use std::process::Output;

use serde_json::json;
use support::serve::Serve;
use support::{guests, maquette, succeed};

fn write(dir: &Path, number: &str, memory_mb: u64) {
    let manifest = format!(
        "[model]\nname = \"worker\"\nowner = \"me\"\nversion = \"{number}\"\n\n[component]\npath = \"worker.wasm\"\n\n\
         [limits]\nmemory_mb = {memory_mb}\n"
    );
    std::fs::write(dir.join("maquette.toml"), manifest).unwrap();
    std::fs::write(dir.join("worker.wasm"), guests::worker()).unwrap();
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn more_than_before_is_published_with_a_yes_and_a_grant_and_a_quarantine_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let serve = Serve::start(&folder.path().join("data"), &[]);
    let dir = folder.path().join("model");
    std::fs::create_dir(&dir).unwrap();
    let command = |words: &[&str]| {
        let mut command = maquette();
        let server = format!("http://{}", serve.address);
        command.args(words).args(["--server", &server, "--token", &serve.token]);
        command
    };
    let publish = |more: &[&str]| {
        let mut words = vec!["publish", dir.to_str().unwrap(), "--skip-tests"];
        words.extend(more);
        command(&words)
    };

    write(&dir, "1.0.0", 16);
    let first = succeed(&mut publish(&[]));
    assert!(
        text(&first).contains("guest memory 16"),
        "what it asks for is said: {}",
        text(&first)
    );
    succeed(&mut publish(&[]));

    // Nobody sits at a terminal here.
    write(&dir, "2.0.0", 32);
    let refused = publish(&[]).output().unwrap();
    let said = text(&refused);
    assert_eq!(refused.status.code(), Some(4), "{said}");
    for part in ["more than the version before", "memory_bytes: 32", "before 16", "--yes"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let refused = publish(&["--json"]).output().unwrap();
    assert!(
        String::from_utf8_lossy(&refused.stdout).contains("--yes"),
        "{}",
        text(&refused)
    );
    succeed(&mut publish(&["--yes"]));
    let shown = text(&succeed(&mut command(&["inspect", "me/worker@2.0.0"])));
    assert!(shown.contains("granted") && shown.contains("as it asks"), "{shown}");
    assert!(shown.contains("maquette:model/run"), "{shown}");

    let mut client = serve.client();
    let trap = json!({"a": "t000"});
    for _ in 0..5 {
        assert_eq!(client.post("/v1/models/me/worker/run", &trap).unwrap().status, 500);
    }
    let shown = text(&succeed(&mut command(&["inspect", "me/worker"])));
    assert!(
        shown.contains("the model panicked") && shown.contains("maquette release"),
        "{shown}"
    );
    let released = text(&succeed(&mut command(&["release", "me/worker@2.0.0"])));
    assert!(released.contains("may be called again"), "{released}");
    let echo = json!({"a": "e000"});
    assert_eq!(client.post("/v1/models/me/worker/run", &echo).unwrap().status, 200);
    let again = text(&succeed(&mut command(&["release", "me/worker@2.0.0"])));
    assert!(again.contains("was not quarantined"), "{again}");
    assert_eq!(
        command(&["release", "nonsense"]).output().unwrap().status.code(),
        Some(2)
    );
}

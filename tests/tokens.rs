//! An operator hands out tokens, sees them, and takes them back from the command line.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use serde_json::Value;
use support::http::Client;
use support::serve::Serve;
use support::{json, maquette, succeed};

#[test]
fn a_token_is_made_listed_and_revoked_from_the_command_line() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let serve = Serve::start(&data, &[]);
    let command = |args: &[&str]| {
        let mut command = maquette();
        command.arg("token").args(args);
        command.args(["--server", &format!("http://{}", serve.address), "--data"]);
        command.arg(&data).env_remove("MAQUETTE_TOKEN");
        command
    };
    let made = succeed(&mut command(&["create", "acme", "--label", "ci"]));
    let token = String::from_utf8(made.stdout).unwrap();
    let may = |path: &str| Client::new(serve.address, token.trim()).get(path).unwrap().status;
    assert_eq!((may("/v1/models"), may("/v1/tokens")), (200, 403), "`{token}`");
    let listed = json(&succeed(&mut command(&["list", "--json"])));
    let of_acme = |token: &&Value| token["owner"] == "acme";
    let shown = listed["results"].as_array().unwrap().iter().find(of_acme).unwrap();
    assert_eq!((&shown["label"], shown.get("token")), (&Value::from("ci"), None));
    let id = shown["id"].as_str().unwrap();
    let lines = String::from_utf8(succeed(&mut command(&["list"])).stdout).unwrap();
    assert!(
        lines
            .lines()
            .any(|line| line.contains(id) && line.contains("read,predict")),
        "{lines}"
    );
    succeed(&mut command(&["revoke", id]));
    assert_eq!(may("/v1/models"), 401);
    for (wrong, code) in [
        (["revoke", id], 4),
        (["revoke", "../models"], 2),
        (["create", "No Name"], 4),
    ] {
        assert_eq!(command(&wrong).output().unwrap().status.code(), Some(code), "{wrong:?}");
    }
}

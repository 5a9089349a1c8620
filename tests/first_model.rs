//! A contributor's first minutes: a new model works at once, mistakes say what to change, versions live side by side.
#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use support::{Up, json, maquette, succeed};

#[test]
fn a_new_model_passes_its_test_at_once_and_mistakes_say_what_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("my-model");
    succeed(maquette().args(["new", "my-model"]).current_dir(folder.path()));
    succeed(maquette().arg("test").current_dir(&dir));
    let output = json(&succeed(
        maquette().args(["run", "--json", "-i", "number=-7"]).current_dir(&dir),
    ));
    assert!(output.to_string().contains("negative"), "{output}");

    // A case that fails names the place and both values.
    std::fs::write(
        dir.join("cases/wrong.json"),
        r#"{"input": {"number": 1}, "output": {"label": "negative", "probability": 1}}"#,
    )
    .unwrap();
    let failed = maquette().arg("test").current_dir(&dir).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8_lossy(&failed.stderr).into_owned() + &String::from_utf8_lossy(&failed.stdout);
    assert!(
        said.contains("label") && said.contains("negative") && said.contains("zero"),
        "{said}"
    );
    std::fs::remove_file(dir.join("cases/wrong.json")).unwrap();

    // A panic is a backtrace for the contributor.
    let source = std::fs::read_to_string(dir.join("src/lib.rs")).unwrap();
    let broken = source.replace(
        "let places:",
        "assert!(question.number < 100.0, \"out of range\");\n        let places:",
    );
    std::fs::write(dir.join("src/lib.rs"), broken).unwrap();
    let failed = maquette()
        .args(["run", "-i", "number=500"])
        .current_dir(&dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("out of range") && said.contains("predict"), "{said}");

    // An input that the schema refuses names the field.
    let failed = maquette()
        .args(["run", "-i", "number=5000"])
        .current_dir(&dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(2), "{said}");
    assert!(said.contains("number"), "{said}");
}

#[test]
fn versions_serve_side_by_side_and_an_alias_moves_between_them() {
    let up = Up::start("plugins/hello");
    let first = up.told["id"].as_str().unwrap().to_owned();
    let run = "/v1/models/local/hello/run";
    assert_eq!(up.post(run, br#"{"name": "Ada"}"#).2, "Hello, Ada!");

    // The next version greets otherwise.
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("hello");
    succeed(maquette().args(["new", "hello"]).current_dir(folder.path()));
    let hello = support::repository().join("plugins/hello");
    let source = std::fs::read_to_string(hello.join("src/lib.rs")).unwrap();
    std::fs::write(dir.join("src/lib.rs"), source.replace("Hello, {}!", "Welcome, {}!")).unwrap();
    let manifest = std::fs::read_to_string(hello.join("maquette.toml")).unwrap();
    std::fs::write(
        dir.join("maquette.toml"),
        manifest.replace("version = \"0.1.0\"", "version = \"0.2.0\""),
    )
    .unwrap();
    std::fs::remove_file(dir.join("cases/positive.json")).unwrap();
    std::fs::write(
        dir.join("cases/ada.json"),
        r#"{"input": {"name": "Ada"}, "output": "Welcome, Ada!"}"#,
    )
    .unwrap();
    let server = up.told["url"].as_str().unwrap();
    let token = up.token();
    let publish = |dir: &std::path::Path| {
        let mut command = maquette();
        command
            .args([
                "publish", "--json", "--owner", "local", "--server", server, "--token", &token,
            ])
            .arg(dir);
        json(&succeed(&mut command))
    };
    let second = publish(&dir)["id"].as_str().unwrap().to_owned();
    assert_ne!(first, second);

    let version = |id: &str| {
        up.post(
            &format!("/v1/models/local/hello/versions/{id}/run"),
            br#"{"name": "Ada"}"#,
        )
        .2
    };
    assert_eq!(
        (version(&first), version(&second)),
        ("Hello, Ada!".into(), "Welcome, Ada!".into())
    );
    assert_eq!(
        (version("0.1.0"), version("0.2.0")),
        ("Hello, Ada!".into(), "Welcome, Ada!".into())
    );
    assert_eq!(
        up.post(run, br#"{"name": "Ada"}"#).2,
        "Welcome, Ada!",
        "latest has moved"
    );

    // A version whose case fails is not published, and the others go on.
    std::fs::write(
        dir.join("cases/ada.json"),
        r#"{"input": {"name": "Ada"}, "output": "Good day, Ada!"}"#,
    )
    .unwrap();
    let mut command = maquette();
    command
        .args([
            "publish", "--json", "--owner", "local", "--server", server, "--token", &token,
        ])
        .arg(&dir);
    let refused = command.output().unwrap();
    assert!(!refused.status.success());
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("Good day"),
        "{refused:?}"
    );
    assert_eq!(up.post(run, br#"{"name": "Ada"}"#).2, "Welcome, Ada!");
}

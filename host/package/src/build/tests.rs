//! Building real guests. Their profile is that of the plugins, so all share one standard library in the target folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use super::*;
use crate::progress::Recorder;
use crate::{Silent, check, toolchain};

const CARGO: &str = r#"[package]
name = "probe"
version = "0.1.0"
edition = "2024"

[lib]
crate-type = ["cdylib"]

[profile.release]
lto = true
codegen-units = 1
panic = "abort"
strip = "debuginfo"

[workspace]
"#;

fn guest(cargo: &str, code: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("src")).unwrap();
    fs::write(dir.path().join("Cargo.toml"), cargo).unwrap();
    fs::write(dir.path().join("src/lib.rs"), code).unwrap();
    dir
}

fn manifest(component: &str) -> Manifest {
    Manifest::parse(
        &format!("[model]\nname = \"probe\"\nversion = \"0.1.0\"\n{component}"),
        "maquette.toml",
    )
    .unwrap()
}

fn built(dir: &Path, options: &Options) -> (Result<PathBuf>, Recorder) {
    let toolchain = toolchain::ready(&mut Silent).unwrap();
    let mut progress = Recorder::default();
    let result = build_with(dir, &manifest(""), &toolchain, options, &mut progress);
    (result, progress)
}

#[test]
fn a_guest_becomes_a_component() {
    let dir = guest(
        CARGO,
        "#[unsafe(no_mangle)]\npub extern \"C\" fn f() -> usize { let unused = 1; std::env::args().count() }",
    );
    let (component, progress) = built(dir.path(), &Options::default());
    let component = component.unwrap();
    assert!(component.ends_with("probe.wasm"), "{}", component.display());
    assert!(
        component.components().any(|c| c.as_os_str() == "guests"),
        "{}",
        component.display()
    );
    let report = check::check(&fs::read(&component).unwrap());
    assert_eq!(report.problems.len(), 1, "{report}");
    assert_eq!(
        report.problems[0].what,
        "the component does not export `maquette:model/predictor@0.1.0`"
    );
    assert!(
        report
            .imports
            .iter()
            .any(|name| name.starts_with("wasi:cli/environment@0.2")),
        "{:?}",
        report.imports
    );
    assert!(
        progress.lines.iter().any(|l| l.contains("Compiling probe")),
        "{:?}",
        progress.lines
    );
    assert!(
        progress
            .lines
            .iter()
            .any(|l| l.contains("warning: unused variable: `unused`")),
        "{:?}",
        progress.lines
    );
}

#[test]
fn a_guest_that_starts_threads_links() {
    let code =
        "#[unsafe(no_mangle)]\npub extern \"C\" fn f() -> bool { std::thread::Builder::new().spawn(|| ()).is_err() }";
    built(
        guest(&CARGO.replace("probe", "probe-threads"), code).path(),
        &Options::default(),
    )
    .0
    .unwrap();
}

#[test]
fn a_compilers_complaint_is_the_error() {
    let dir = guest(
        &CARGO.replace("probe", "probe-broken"),
        "pub fn f() -> u32 { \"text\" }",
    );
    let error = built(dir.path(), &Options::default()).0.unwrap_err().to_string();
    for part in [
        "the guest does not build:\nerror[E0308]: mismatched types",
        "--> src/lib.rs:1:21",
        "correct what the compiler names",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("Compiling"), "{error}");
}

#[test]
fn a_guest_that_makes_no_component_is_told_what_to_add() {
    let cargo = CARGO.replace("probe", "probe-rlib").replace("\"cdylib\"", "\"rlib\"");
    let error = built(guest(&cargo, "").path(), &Options::default())
        .0
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("made no component; add to its Cargo.toml:\n[lib]\ncrate-type = [\"cdylib\"]"),
        "{error}"
    );
}

#[test]
fn an_unpublished_sdk_is_found_in_its_folder_and_nothing_is_said_about_it() {
    let sdk = guest(
        "[package]\nname = \"maquette-sdk\"\nversion = \"0.1.3\"\nedition = \"2024\"\n",
        "pub fn answer() -> i32 { 42 }",
    );
    let cargo = CARGO
        .replace("probe", "probe-sdk")
        .replace("[workspace]", "[workspace]\n[dependencies]\nmaquette-sdk = \"0.1\"");
    let dir = guest(
        &cargo,
        "#[unsafe(no_mangle)]\npub extern \"C\" fn f() -> i32 { maquette_sdk::answer() }",
    );
    let options = Options {
        sdk: Some(sdk.path().to_owned()),
        ..Options::default()
    };
    let (component, progress) = built(dir.path(), &options);
    component.unwrap();
    assert!(
        !progress
            .lines
            .iter()
            .any(|line| line.contains("warning") || line.contains("patch")),
        "{:?}",
        progress.lines
    );

    let options = Options {
        sdk: Some(dir.path().join("nowhere")),
        ..Options::default()
    };
    let error = built(dir.path(), &options).0.unwrap_err().to_string();
    assert!(error.contains("there is no SDK in"), "{error}");
}

#[test]
fn a_folder_that_cannot_be_built_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = built(dir.path(), &Options::default()).0.unwrap_err().to_string();
    assert!(
        error.contains("there is no Cargo.toml to build; make one with `maquette new`"),
        "{error}"
    );

    fs::create_dir_all(dir.path().join("a/src")).unwrap();
    fs::write(dir.path().join("a/src/lib.rs"), "").unwrap();
    fs::write(
        dir.path().join("a/Cargo.toml"),
        "[package]\nname = \"a\"\nversion = \"0.1.0\"\n",
    )
    .unwrap();
    fs::write(
        dir.path().join("Cargo.toml"),
        "[workspace]\nmembers = [\"a\"]\nresolver = \"3\"\n",
    )
    .unwrap();
    let error = built(dir.path(), &Options::default()).0.unwrap_err().to_string();
    assert!(
        error.contains("choose one in maquette.toml: [component] package = \"…\" (a)"),
        "{error}"
    );
    let toolchain = toolchain::ready(&mut Silent).unwrap();
    let other = manifest("[component]\npackage = \"b\"\n");
    let error = build(dir.path(), &other, &toolchain, &mut Silent)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("there is no package `b`; the packages there are: a"),
        "{error}"
    );

    fs::write(dir.path().join("Cargo.toml"), "[workspace\n").unwrap();
    let error = built(dir.path(), &Options::default()).0.unwrap_err().to_string();
    assert!(
        error.contains("does not build:\nerror: ") && error.contains("Cargo.toml"),
        "{error}"
    );
}

#[test]
fn a_prebuilt_component_is_taken_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = manifest("[component]\npath = \"m.wasm\"\n");
    let error = prebuilt(dir.path(), &manifest).unwrap_err().to_string();
    assert!(
        error.starts_with("m.wasm ([component] path): there is no such file"),
        "{error}"
    );
    fs::write(dir.path().join("m.wasm"), "x").unwrap();
    let toolchain = Toolchain::Installed {
        sysroot: "/nowhere".into(),
    };
    let found = build(dir.path(), &manifest, &toolchain, &mut Silent).unwrap();
    assert_eq!(fs::read(found).unwrap(), b"x");
}

#[test]
fn a_guest_alone_builds_in_the_users_cache_and_a_member_in_its_workspace() {
    if std::env::var_os("CARGO_TARGET_DIR").is_some() {
        assert!(target(Path::new("/a"), None, None).ends_with("guests"));
        return;
    }
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("m");
    fs::create_dir(&dir).unwrap();
    let shared = Some(outer.path().join("target"));
    assert_eq!(
        target(&dir, Some(outer.path().into()), shared.clone()),
        outer.path().join("target/guests")
    );
    assert_eq!(target(&dir, Some(dir.clone()), shared), folder::cache().join("guests"));
}

#[test]
fn cargos_account_is_told_from_the_compilers_remarks() {
    for status in [
        "   Compiling probe v0.1.0 (/x)",
        "    Finished `release` profile",
        "    Blocking waiting for file lock",
        "    Updating the registry's index",
    ] {
        assert!(is_status(status), "{status}");
    }
    for remark in [
        "error[E0308]: mismatched types",
        " --> src/lib.rs:1:1",
        "1 | fn f() {}",
        "  |     ^^^ expected `u32`",
        "",
        "   = note: Some",
    ] {
        assert!(!is_status(remark), "{remark}");
    }
}

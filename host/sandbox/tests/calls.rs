//! What every call promises: a fresh sandbox, a loaded start, its own log, and files beside its JSON.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::sync::{Arc, Mutex};

use common::{Host, call, call_with, limits};
use maquette_fixtures as fixtures;
use maquette_sandbox::{Call, ErrorKind, Event, InputFile, Load, LogLevel, Prepared};

#[test]
fn a_call_returns_what_the_guest_returns_and_says_what_it_used() {
    let host = Host::new();
    let outcome = call(&host.open(&fixtures::echo()), r#"{"a":[1,2]}"#);
    assert_eq!(outcome.result.unwrap().json, r#"{"a":[1,2]}"#);
    assert_eq!(outcome.report.output_bytes, 11);
    assert!(outcome.report.guest_memory_bytes >= 128 << 10 && outcome.report.total_us > 0);
}

/// Returns how often it was called before, as one digit.
const COUNT: &str = r#"
  (func $predict (param $p i32) (param $n i32) (result i32)
    (i32.store8 (i32.const 4096) (i32.add (i32.load8_u (i32.const 4096)) (i32.const 1)))
    (call $ok (i32.const 4096) (i32.const 1)))
  (data (i32.const 4096) "0")"#;

#[test]
fn nothing_that_a_call_leaves_in_memory_is_seen_by_the_next() {
    let host = Host::new();
    let guest = host.open(&fixtures::component("", COUNT));
    for _ in 0..50 {
        assert_eq!(call(&guest, "{}").result.unwrap().json, "1");
    }
}

/// `load` writes a 7 where `predict` finds it.
const LOADED: &str = r#"
  (func $load (result i32)
    (i32.store8 (i32.const 4096) (i32.const 55))
    (i32.const 32))
  (func $predict (param $p i32) (param $n i32) (result i32) (call $ok (i32.const 4096) (i32.const 1)))
  (data (i32.const 4096) "0")"#;

#[test]
fn load_runs_once_and_every_sandbox_starts_from_its_snapshot() {
    let host = Host::new();
    let (guest, prepared) = host
        .try_open(&host.parts(&fixtures::component("", LOADED), limits()))
        .unwrap();
    assert_eq!(prepared.load, Load::Snapshot);
    for _ in 0..3 {
        assert_eq!(call(&guest, "{}").result.unwrap().json, "7");
    }
}

#[test]
fn a_component_that_cannot_be_snapshotted_says_why_and_loads_in_every_sandbox() {
    let host = Host::new();
    // The snapshotter cannot read a global of this type.
    let wasm = fixtures::component("", &format!("{LOADED} (global $v (mut v128) (v128.const i64x2 0 0))"));
    let (guest, prepared) = host.try_open(&host.parts(&wasm, limits())).unwrap();
    let Load::PerSandbox { why } = &prepared.load else {
        panic!("it was snapshotted: {prepared:?}")
    };
    assert!(!why.is_empty());
    assert_eq!(call(&guest, "{}").result.unwrap().json, "7");
}

#[test]
fn a_load_that_fails_is_reported_in_its_own_words() {
    let host = Host::new();
    let body = r#"
      (func $load (result i32)
        (i32.store8 (i32.const 32) (i32.const 1))
        (i32.store8 (i32.const 36) (i32.const 0))
        (i32.store (i32.const 40) (i32.const 4096))
        (i32.store (i32.const 44) (i32.const 13))
        (i32.const 32))
      (data (i32.const 4096) "no vocabulary")"#;
    let error = host
        .try_open(&host.parts(&fixtures::component("", body), limits()))
        .err()
        .unwrap();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::Component, "`load` failed: no vocabulary")
    );
}

const LOG_IMPORT: &str = r#"(import "maquette:model/run@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "maquette:model/run@0.1.0" "emit" (func $emit (param i32 i32 i32)))
  (import "maquette:model/run@0.1.0" "progress" (func $progress (param f64 i32 i32)))"#;

#[test]
fn logs_progress_and_items_are_told_as_they_come() {
    let host = Host::new();
    let body = r#"
      (func $predict (param $p i32) (param $n i32) (result i32)
        (call $log (i32.const 2) (i32.const 4096) (i32.const 5))
        (call $progress (f64.const nan) (i32.const 4096) (i32.const 5))
        (call $emit (local.get $p) (local.get $n) (i32.const 5000))
        (call $ok (local.get $p) (local.get $n)))
      (data (i32.const 4096) "hello")"#;
    let guest = host.open(&fixtures::component(LOG_IMPORT, body));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&seen);
    let events = Box::new(move |event| sink.lock().unwrap().push(event));
    let outcome = call_with(
        &guest,
        Call {
            input: "{}".into(),
            events: Some(events),
            ..Call::default()
        },
    );
    assert_eq!(outcome.result.unwrap().items, 1);
    let line = outcome.report.logs[0].clone();
    assert_eq!((line.level, line.message.as_str()), (LogLevel::Warn, "hello"));
    let progress = Event::Progress {
        fraction: 0.0,
        message: "hello".into(),
    };
    assert_eq!(
        *seen.lock().unwrap(),
        [Event::Log(line), progress, Event::Item("{}".into())]
    );
}

#[test]
fn a_guest_reads_the_files_of_its_call_and_no_others() {
    let host = Host::new();
    let imports = r#"(import "maquette:model/files@0.1.0" "[static]input-file.open" (func $open (param i32 i32 i32)))
      (import "maquette:model/files@0.1.0" "[method]input-file.read" (func $read (param i32 i64 i64 i32)))"#;
    // Opens the reference that is the whole input; returns the file's bytes, or "0" if there is no such file.
    let body = r#"
      (func $predict (param $p i32) (param $n i32) (result i32)
        (call $open (local.get $p) (local.get $n) (i32.const 5000))
        (if (i32.load8_u (i32.const 5000)) (then (return (call $ok (i32.const 4096) (i32.const 1)))))
        (call $read (i32.load (i32.const 5004)) (i64.const 0) (i64.const -1) (i32.const 5100))
        (call $ok (i32.load (i32.const 5104)) (i32.load (i32.const 5108))))
      (data (i32.const 4096) "0")"#;
    let guest = host.open(&fixtures::component(imports, body));
    let ask = |input: String| {
        let files = vec![InputFile {
            media_type: "text/plain".into(),
            bytes: b"[42]"[..].into(),
        }];
        call_with(
            &guest,
            Call {
                input,
                files,
                ..Call::default()
            },
        )
        .result
        .unwrap()
        .json
    };
    assert_eq!(ask(maquette_sandbox::files::reference(0)), "[42]");
    assert_eq!(ask(maquette_sandbox::files::reference(1)), "0");
    assert_eq!(ask("/etc/passwd".into()), "0");
}

#[test]
fn a_changed_artifact_is_not_run_and_preparing_again_mends_it() {
    let host = Host::new();
    let parts = host.parts(&fixtures::echo(), limits());
    let (_, prepared) = host.try_open(&parts).unwrap();
    let path = host.folder.path().join("cache").join(&prepared.artifact);
    let mut code = std::fs::read(&path).unwrap();
    let middle = code.len() / 2;
    code[middle] ^= 1;
    std::fs::write(&path, code).unwrap();

    let open = |prepared: &Prepared| maquette_sandbox::Guest::open(&host.engine, &host.runtime, &parts, prepared);
    assert_eq!(open(&prepared).err().unwrap().kind, ErrorKind::Artifact);
    let (guest, again) = host.try_open(&parts).unwrap();
    assert_eq!(
        again.artifact_sha256, prepared.artifact_sha256,
        "compiling is deterministic"
    );
    assert_eq!(call(&guest, "{}").result.unwrap().json, "{}");
}

#[test]
fn a_prepared_component_is_found_again_without_compiling() {
    let host = Host::new();
    let parts = host.parts(&fixtures::component("", LOADED), limits());
    let (_, first) = host.try_open(&parts).unwrap();
    let modified = |p: &Prepared| {
        let path = host.folder.path().join("cache").join(&p.artifact);
        std::fs::metadata(path).unwrap().modified().unwrap()
    };
    let before = modified(&first);
    let (_, second) = host.try_open(&parts).unwrap();
    assert_eq!((&first, before), (&second, modified(&second)));
}

#[test]
fn two_who_prepare_the_same_component_at_once_both_succeed() {
    let host = Host::new();
    let parts = host.parts(&fixtures::component("", LOADED), limits());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (guest, _) = host.try_open(&parts).unwrap();
                assert_eq!(call(&guest, "{}").result.unwrap().json, "7");
            });
        }
    });
}

//! Guests that want out: the environment, files, the network, fine clocks, what belongs to others.

use maquette_fixtures as fixtures;
use maquette_sandbox::Code;

use crate::common::{Host, limits};
use crate::{RULE, called, passed_on, predict, refused, survives, told};

#[test]
fn load_may_not_touch_tensors() {
    let host = Host::new();
    let imports = r#"(import "maquette:model/tensors@0.1.0" "resolve" (func $resolve (param i32 i32 i32)))"#;
    let body = "(func $load (result i32) (call $resolve (i32.const 0) (i32.const 0) (i32.const 5000)) (i32.const 32))";
    let error = refused(&host, &fixtures::component(imports, body));
    assert_eq!(
        error.message,
        "`load` failed: `load` is pure and may not call tensors.resolve: call it from `predict`, or record a program, which needs no tensors"
    );
    assert_eq!(
        error.detail.unwrap(),
        "cause: `load` is pure and may not call tensors.resolve: call it from `predict`, or record a program, which needs no tensors\n  0: \
         function 0\n  1: load\n"
    );
}

#[test]
fn the_environment_arguments_folder_and_files_are_empty() {
    let imports = r#"
      (import "wasi:cli/environment@0.2.0" "get-environment" (func $env (param i32)))
      (import "wasi:cli/environment@0.2.0" "get-arguments" (func $args (param i32)))
      (import "wasi:cli/environment@0.2.0" "initial-cwd" (func $cwd (param i32)))
      (import "wasi:filesystem/preopens@0.2.0" "get-directories" (func $dirs (param i32)))"#;
    // Lists at their length, an option at its tag: all zero.
    let body = r#"(func $predict (param i32 i32) (result i32)
        (call $env (i32.const 5000)) (call $args (i32.const 5008)) (call $cwd (i32.const 5016)) (call $dirs (i32.const 5032))
        (i32.store8 (i32.const 4200) (i32.add (i32.const 48)
          (i32.or (i32.or (i32.load (i32.const 5004)) (i32.load (i32.const 5012)))
                  (i32.or (i32.load8_u (i32.const 5016)) (i32.load (i32.const 5036))))))
        (call $ok (i32.const 4200) (i32.const 1)))"#;
    assert!(
        std::env::vars().next().is_some() && std::env::args().next().is_some(),
        "there is something to see"
    );
    assert_eq!(survives(&Host::new(), imports, body).0, "0");
}

#[test]
fn clocks_are_no_finer_than_a_millisecond() {
    let imports = r#"
      (import "wasi:clocks/monotonic-clock@0.2.0" "now" (func $now (result i64)))
      (import "wasi:clocks/monotonic-clock@0.2.0" "resolution" (func $resolution (result i64)))
      (import "wasi:clocks/wall-clock@0.2.0" "now" (func $wall (param i32)))"#;
    // Reads both clocks a thousand times: every reading is a whole millisecond.
    let body = r#"(func $predict (param i32 i32) (result i32) (local $i i32) (local $fine i64)
        (loop $l
          (call $wall (i32.const 5000))
          (local.set $fine (i64.or (local.get $fine) (i64.rem_u (call $now) (i64.const 1000000))))
          (local.set $fine (i64.or (local.get $fine)
            (i64.extend_i32_u (i32.rem_u (i32.load (i32.const 5008)) (i32.const 1000000)))))
          (br_if $l (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1000))))
        (if (i64.ne (call $resolution) (i64.const 1000000)) (then unreachable))
        (i32.store8 (i32.const 4200) (i32.add (i32.const 48) (i64.ne (local.get $fine) (i64.const 0))))
        (call $ok (i32.const 4200) (i32.const 1)))"#;
    assert_eq!(survives(&Host::new(), imports, body).0, "0");
}

#[test]
fn random_bytes_are_bounded() {
    for (interface, function) in [
        ("random", "get-random-bytes"),
        ("insecure", "get-insecure-random-bytes"),
    ] {
        let imports =
            format!(r#"(import "wasi:random/{interface}@0.2.0" "{function}" (func $random (param i64 i32)))"#);
        for (bytes, allowed) in [(65_536_i64, true), (65_537, false), (-1, false)] {
            let body = format!(
                "(func $predict (param $p i32) (param $n i32) (result i32)
                (call $random (i64.const {bytes}) (i32.const 5000)) (call $ok (local.get $p) (local.get $n)))"
            );
            if allowed {
                assert_eq!(survives(&Host::new(), &imports, &body).0, "{}");
            } else {
                let (failure, _) = predict(&Host::new(), &imports, &body);
                let asked = bytes as u64;
                let detail =
                    format!("cause: requested len {asked} exceeds limit 65536\n  0: function 0\n  1: predict\n");
                assert_eq!(
                    told(&failure),
                    (Code::Internal, RULE, Some(detail.as_str())),
                    "{interface}"
                );
            }
        }
    }
}

#[test]
fn the_network_is_refused_by_name() {
    let imports = r#"(import "wasi:sockets/instance-network@0.2.0" "instance-network" (func $network (result i32)))"#;
    let error = refused(&Host::new(), &fixtures::component(imports, ""));
    assert_eq!(
        error.message,
        "the component imports `wasi:sockets/instance-network@0.2.0`, which models may not use; models have no network: send what they need as input, weights or assets"
    );
}

#[test]
fn an_exit_ends_the_sandbox_and_not_the_host() {
    let imports = r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#;
    let body = "(func $predict (param i32 i32) (result i32) (call $exit (i32.const 1)) unreachable)";
    let (failure, _) = predict(&Host::new(), imports, body);
    assert_eq!(
        told(&failure),
        (
            Code::Internal,
            "the model called exit(1) instead of returning",
            Some("cause: Exited with i32 exit status 1\n  0: predict\n")
        )
    );
}

#[test]
fn standard_input_is_empty() {
    let imports = r#"(import "wasi:cli/stdin@0.2.0" "get-stdin" (func $stdin (result i32)))
      (import "wasi:io/streams@0.2.0" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))"#;
    // An error (1), and that error is `closed` (1).
    let body = r#"(func $predict (param i32 i32) (result i32)
        (call $read (call $stdin) (i64.const 1000) (i32.const 5000))
        (i32.store8 (i32.const 4200) (i32.add (i32.const 48) (i32.load8_u (i32.const 5000))))
        (i32.store8 (i32.const 4201) (i32.add (i32.const 48) (i32.load8_u (i32.const 5004))))
        (call $ok (i32.const 4200) (i32.const 2)))"#;
    assert_eq!(survives(&Host::new(), imports, body).0, "11");
}

#[test]
fn assets_and_weights_of_other_names_are_not_found_whatever_the_name() {
    let imports = r#"
      (import "maquette:model/assets@0.1.0" "read" (func $asset (param i32 i32 i32)))
      (import "maquette:model/weights@0.1.0" "tensors" (func $weights (param i32 i32 i32)))"#;
    let host = Host::new();
    std::fs::write(host.folder.path().join("secret"), "of another").unwrap();
    for name in ["../../etc/passwd", "/etc/passwd", "cache", "..", "", "secret"] {
        for (import, what, table) in [
            ("asset", "asset", "Assets are named in [assets]"),
            ("weights", "weight file", "Weight files are named in [weights]"),
        ] {
            let body = format!(
                r#"(func $predict (param i32 i32) (result i32)
                (call ${import} (i32.const 4096) (i32.const {}) (i32.const 5000)) (i32.const 5000))
              (data (i32.const 4096) "{name}")"#,
                name.len()
            );
            assert_eq!(
                passed_on(called(&host, imports, &body, limits())),
                (
                    Code::Unsupported,
                    format!("this version has no {what} `{name}`; it has: none. {table} of maquette.toml")
                )
            );
        }
    }
}

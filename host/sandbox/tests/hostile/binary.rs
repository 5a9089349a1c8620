//! Files that are not what they say: cut, packed with nonsense, compiled elsewhere, changed on disk.

use std::os::unix::fs::PermissionsExt as _;

use maquette_fixtures as fixtures;
use maquette_sandbox::{ErrorKind, Guest, prepare};

use crate::common::{Host, call, limits};
use crate::{refused, well};

#[test]
fn a_component_cut_anywhere_or_with_a_byte_changed_is_refused_or_harmless() {
    let host = Host::new();
    let whole = fixtures::echo();
    for cut in (0..whole.len()).step_by(whole.len() / 40 + 1) {
        let error = host.try_open(&host.parts(&whole[..cut], limits())).err().unwrap();
        assert_eq!((error.kind, error.detail), (ErrorKind::Component, None), "cut at {cut}");
        let told = error.message;
        assert!(
            told.starts_with("the component is not valid: unexpected end-of-file at byte 0x")
                && told.ends_with("; it is damaged or cut off: build it and send it again")
                || cut == 0 && told == NO_WASM,
            "cut at {cut}: {told}"
        );
    }
    for at in (8..whole.len()).step_by(whole.len() / 40 + 1) {
        let mut changed = whole.clone();
        changed[at] ^= 0x55;
        match host.try_open(&host.parts(&changed, limits())) {
            Ok((guest, _)) => drop(call(&guest, "{}")),
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Component, "changed at {at}: {error}");
                assert!(!error.message.contains('\n'), "changed at {at}: {error}");
            }
        }
    }
    well(&host);
}

#[test]
fn a_core_module_and_compiled_code_are_refused() {
    let host = Host::new();
    let error = refused(&host, &wat::parse_str("(module)").unwrap());
    assert_eq!(
        error.message,
        "this is a core module, not a component: build it for the target wasm32-wasip2, as `maquette build` does"
    );
    // What this very engine has compiled, which it would run if it were asked to deserialise it.
    let code = host.engine.wasmtime().precompile_component(&fixtures::echo()).unwrap();
    assert_eq!(&code[..4], b"\x7fELF");
    let error = refused(&host, &code);
    assert_eq!((error.message.as_str(), error.detail), (NO_WASM, None));
}

/// What is told of a file that does not begin as WebAssembly does.
const NO_WASM: &str = "this is not WebAssembly: send the .wasm file that `maquette build` makes, neither packed nor compiled for a machine (.cwasm)";

#[test]
fn a_tampered_cache_is_never_run_and_is_rebuilt() {
    let host = Host::new();
    let parts = host.parts(&fixtures::echo(), limits());
    let (_, prepared) = host.try_open(&parts).unwrap();
    let path = host.folder.path().join("cache").join(&prepared.artifact);
    let mode = path.parent().unwrap().metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "only this user can get there");
    let code = std::fs::read(&path).unwrap();
    let mut flipped = code.clone();
    flipped[code.len() / 2] ^= 1;
    for bad in [&flipped[..], &code[..code.len() / 2], b"", b"\x7fELF"] {
        std::fs::write(&path, bad).unwrap();
        let error = Guest::open(&host.engine, &host.runtime, &parts, &prepared)
            .err()
            .unwrap();
        assert_eq!(error.kind, ErrorKind::Artifact);
        assert_eq!(
            error.message,
            format!(
                "{} is not what was written, its digest differs: prepare the component again",
                prepared.artifact
            )
        );
        let again = prepare(&host.engine, &parts).unwrap();
        assert_eq!(again, prepared);
        assert_eq!(std::fs::read(&path).unwrap(), code, "rebuilt as it was");
    }
    // A record that points elsewhere, at a file that exists and has the digest it says.
    let outside = host.folder.path().join("elsewhere.cwasm");
    std::fs::write(&outside, &code).unwrap();
    let mut lying = prepared.clone();
    lying.artifact = format!("../{}", prepared.artifact);
    std::fs::copy(&path, host.folder.path().join(&prepared.artifact)).unwrap();
    let error = Guest::open(&host.engine, &host.runtime, &parts, &lying).err().unwrap();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (
            ErrorKind::Artifact,
            "the component was compiled by another build of the host: prepare it again"
        )
    );
    well(&host);
}

#[test]
fn nested_components_instances_and_sections_without_end_are_refused() {
    let host = Host::new();
    let mut nested = b"\0asm\x0d\0\x01\0".to_vec();
    for _ in 0..400 {
        let mut outer = b"\0asm\x0d\0\x01\0\x04".to_vec();
        leb(&mut outer, nested.len());
        outer.extend(&nested);
        nested = outer;
    }
    let wide = format!("(component {})", "(component)".repeat(10_000));
    let functions = format!("(component (core module {}))", "(func)".repeat(1_000_000));
    let none = "the component does not export `maquette:model/predictor`: in Rust, implement `Model` and write \
                `maquette::export!(YourModel);`";
    for wasm in [
        nested,
        wat::parse_str(wide).unwrap(),
        wat::parse_str(functions).unwrap(),
    ] {
        let error = refused(&host, &wasm);
        assert_eq!((error.message.as_str(), error.detail), (none, None));
    }
}

#[test]
fn a_large_custom_section_is_not_kept() {
    // 20 MB that the compiled code is no larger for.
    let host = Host::new();
    let mut wasm = fixtures::echo();
    wasm.push(0);
    leb(&mut wasm, 20_000_002);
    wasm.extend([1, b'x']);
    wasm.resize(wasm.len() + 20_000_000, 0xa5);
    let (guest, prepared) = host.try_open(&host.parts(&wasm, limits())).unwrap();
    assert!(prepared.artifact_bytes < 1 << 20, "{} bytes", prepared.artifact_bytes);
    assert_eq!(call(&guest, "[1]").result.unwrap().json, "[1]");
    well(&host);
}

#[test]
fn a_component_over_the_size_limit_is_refused_unread() {
    let host = Host::new();
    let part = host.part(b"sparse");
    let file = std::fs::File::options().write(true).open(&part.path).unwrap();
    file.set_len(maquette_sandbox::MAX_COMPONENT_BYTES + 1).unwrap();
    let mut parts = host.parts(&fixtures::echo(), limits());
    parts.component = part;
    let error = host.try_open(&parts).err().unwrap();
    assert_eq!(
        (error.kind, error.message.as_str()),
        (
            ErrorKind::Component,
            "the component is 67108865 bytes, the limit is 67108864: put data into [weights] or [assets] instead of the code"
        )
    );
    well(&host);
}

/// Appends an unsigned number as sections are sized.
fn leb(to: &mut Vec<u8>, mut value: usize) {
    while value > 127 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

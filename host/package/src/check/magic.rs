//! What kind of file this is, before anything looks inside.

use wasmparser::{Validator, WasmFeatures};

use super::{Problem, Severity};

/// Whether the file begins as a component does.
pub(super) fn check(bytes: &[u8]) -> Result<(), Problem> {
    let (what, help) = match bytes {
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => return Ok(()),
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => (
            "this is a core WebAssembly module, not a component",
            "build for the target wasm32-wasip2, as `maquette build` does; wasm32-unknown-unknown and wasm32-wasip1 make modules",
        ),
        [0, b'a', b's', b'm', ..] => (
            "this is WebAssembly of a version that this build does not know",
            "build it again with the tools that `maquette build` uses",
        ),
        [0x7f, b'E', b'L', b'F', ..] => (
            "this is compiled for one machine (.cwasm or a program), not a component",
            "name the .wasm file that it was compiled from",
        ),
        [] => ("the file is empty", "build it again"),
        other if std::str::from_utf8(other).is_ok_and(|text| text.trim_start().starts_with(['(', ';'])) => (
            "this is WebAssembly as text",
            "turn it into a binary first: `wasm-tools parse FILE.wat -o FILE.wasm`",
        ),
        _ => (
            "this is not WebAssembly",
            "name the .wasm file that `maquette build` made",
        ),
    };
    Err(problem(what.to_owned(), "the file's first bytes", help))
}

/// Whether the component is well formed and uses nothing that the host leaves off.
pub(super) fn validate(bytes: &[u8]) -> Result<(), Problem> {
    let off = WasmFeatures::MEMORY64 | WasmFeatures::TAIL_CALL | WasmFeatures::THREADS | WasmFeatures::STACK_SWITCHING;
    let features = WasmFeatures::default().difference(off);
    match Validator::new_with_features(features).validate_all(bytes) {
        Ok(_) => Ok(()),
        Err(why) => {
            let what = format!("the component is not valid: {}", why.message());
            let help = "the file is cut off or damaged, or its compiler used a feature that the host leaves off (threads, tail \
                        calls, 64-bit memories): build it again with the defaults of wasm32-wasip2";
            Err(problem(what, &format!("byte {:#x}", why.offset()), help))
        }
    }
}

fn problem(what: String, place: &str, help: &str) -> Problem {
    Problem {
        severity: Severity::Error,
        what,
        where_: place.to_owned(),
        help: help.to_owned(),
    }
}

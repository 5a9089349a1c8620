//! What a hostile guest gets, and that the host is well afterwards.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod binary;
mod device;
mod escape;
mod guest_memory;
mod host_memory;
mod lifecycle;
mod output;
mod time;

use common::{Host, call, limits};
use maquette_fixtures as fixtures;
use maquette_sandbox::{Error, ErrorKind, Failure, Report};

/// Uploads, reads and drops of tensors.
const TENSORS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "[static]tensor.from-bytes" (func $upload (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[method]tensor.read" (func $read (param i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))"#;

/// The host serves a good guest, and nothing of the calls before is alive or charged.
fn well(host: &Host) {
    let good = host.open(&fixtures::echo());
    assert_eq!(call(&good, "[1]").result.unwrap().json, "[1]", "a good guest is served");
    let pool = host.engine.wasmtime().pooling_allocator_metrics().unwrap();
    let live = (
        pool.component_instances(),
        pool.core_instances(),
        pool.memories(),
        pool.tables(),
    );
    assert_eq!(live, (0, 0, 0, 0), "sandboxes are gone");
    assert_eq!(host.runtime.charged(), 0, "bytes are given back");
}

/// How a call of a hostile guest ends.
fn predict(host: &Host, imports: &str, functions: &str) -> (Failure, Report) {
    let outcome = call(&host.open(&fixtures::component(imports, functions)), "{}");
    well(host);
    (outcome.result.unwrap_err(), outcome.report)
}

/// What a call of a hostile guest that goes on all the same returns.
fn survives(host: &Host, imports: &str, functions: &str) -> (String, Report) {
    let outcome = call(&host.open(&fixtures::component(imports, functions)), "{}");
    well(host);
    (outcome.result.unwrap().json, outcome.report)
}

/// Why a hostile component is not accepted.
fn refused(host: &Host, wasm: &[u8]) -> Error {
    let error = host.try_open(&host.parts(wasm, limits())).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Component, "{error}");
    well(host);
    error
}

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

use common::hostile::{TENSORS, well};
use common::{Host, call, limits};
use maquette_fixtures as fixtures;
use maquette_sandbox::{Error, ErrorKind, Failure, Report};

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

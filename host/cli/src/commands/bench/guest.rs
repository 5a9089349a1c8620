//! The guests that are measured: written as WebAssembly text and made into components with the contract's own WIT, so that
//! measuring needs no guest toolchain and no SDK stands between the clock and the host.

use std::path::Path;
use std::sync::Arc;

use maquette_package::Digest;
use maquette_sandbox::{Limits, Part, Parts};
use maquette_tensor::ops::Error;
use maquette_tensor::ops::program::Description;
use maquette_tensor::{Budget, Control, Program, Scope};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::{Resolve, SourceMap};

use crate::failure::{Failure, Result};
use crate::local::Host;
use crate::sdk;

/// A model that returns its input.
const ECHO: &str = r"
  (func $predict (param $p i32) (param $n i32) (result i32) (call $ok (local.get $p) (local.get $n)))";

const TENSORS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "resolve" (func $resolve (param i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "apply" (func $apply (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[static]tensor.from-bytes" (func $upload (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[resource-drop]tensor" (func $drop (param i32)))"#;

/// Adds two tensors of one element as often as the number in the input says. Scratch: a result at 1024, `add/1` at 1056, the
/// shape [1] at 1064, the list of inputs at 1072.
const ADDS: &str = r#"
  (func $good (result i32)
    (if (i32.load8_u (i32.const 1024)) (then unreachable))
    (i32.load offset=4 (i32.const 1024)))
  (func $one (result i32)
    (call $upload (i32.const 0) (i32.const 1064) (i32.const 1) (i32.const 1064) (i32.const 4) (i32.const 1024))
    (call $good))
  (func $predict (param $p i32) (param $n i32) (result i32) (local $left i32) (local $c i32) (local $end i32) (local $op i32)
    (local.set $end (i32.add (local.get $p) (local.get $n)))
    (block $read (loop $next
      (br_if $read (i32.ge_u (local.get $p) (local.get $end)))
      (local.set $c (i32.sub (i32.load8_u (local.get $p)) (i32.const 48)))
      (if (i32.lt_u (local.get $c) (i32.const 10))
        (then (local.set $left (i32.add (i32.mul (local.get $left) (i32.const 10)) (local.get $c)))))
      (local.set $p (i32.add (local.get $p) (i32.const 1)))
      (br $next)))
    (call $resolve (i32.const 1056) (i32.const 5) (i32.const 1024))
    (local.set $op (call $good))
    (i32.store (i32.const 1072) (call $one))
    (i32.store (i32.const 1076) (call $one))
    (block $done (loop $next
      (br_if $done (i32.eqz (local.get $left)))
      (call $apply (local.get $op) (i32.const 1072) (i32.const 2) (i32.const 8) (i32.const 0) (i32.const 1024))
      (call $drop (call $good))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br $next)))
    (call $ok (i32.const 1080) (i32.const 1)))
  (data (i32.const 1056) "add/1\00\00\00\01\00\00\00\00\00\00\00\00\00\00\00\00\00\00\000")"#;

/// The contract's numbers of element types.
const U32: u32 = 4;
const F32: u32 = 0;

const PROGRAMS: &str = r#"
  (import "maquette:model/tensors@0.1.0" "[static]tensor.from-bytes" (func $upload (param i32 i32 i32 i32 i32 i32)))
  (import "maquette:model/tensors@0.1.0" "[method]tensor.read" (func $read (param i32 i32)))
  (import "maquette:model/programs@0.1.0" "[static]program.find" (func $find (param i32 i32 i32)))
  (import "maquette:model/programs@0.1.0" "[method]program.run" (func $run (param i32 i32 i32 i32 i32 i32)))"#;

/// Runs a program that is compiled already on two matrices, and returns the sum of the output's words. Scratch: a result at 1024, the
/// list of inputs at 1040, digits up to 1080, the matrices' shape at 1080, the program's digest at 1088; the matrices are from 2048 on.
fn forward(digest: &str, [rows, columns]: [u32; 2], data: &str) -> String {
    let bytes = rows * columns * 4;
    let shape: String = [rows, columns]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .map(|b| format!("\\{b:02x}"))
        .collect();
    format!(
        r#"
  (func $good (result i32)
    (if (i32.load8_u (i32.const 1024)) (then unreachable))
    (i32.load offset=4 (i32.const 1024)))
  (func $predict (param i32 i32) (result i32) (local $program i32) (local $at i32) (local $end i32) (local $sum i64)
    (call $find (i32.const 1088) (i32.const 64) (i32.const 1024))
    (if (i32.eqz (i32.load8_u (i32.const 1024))) (then unreachable))
    (local.set $program (i32.load offset=4 (i32.const 1024)))
    (call $upload (i32.const {U32}) (i32.const 1080) (i32.const 2) (i32.const 2048) (i32.const {bytes}) (i32.const 1024))
    (i32.store (i32.const 1040) (call $good))
    (call $upload (i32.const {F32}) (i32.const 1080) (i32.const 2) (i32.const {after}) (i32.const {bytes}) (i32.const 1024))
    (i32.store (i32.const 1044) (call $good))
    (call $run (local.get $program) (i32.const 1040) (i32.const 2) (i32.const 8) (i32.const 0) (i32.const 1024))
    (call $read (i32.load (call $good)) (i32.const 1024))
    (local.set $at (call $good))
    (local.set $end (i32.add (local.get $at) (i32.load offset=8 (i32.const 1024))))
    (block $summed (loop $next
      (br_if $summed (i32.ge_u (local.get $at) (local.get $end)))
      (local.set $sum (i64.add (local.get $sum) (i64.load32_u (local.get $at))))
      (local.set $at (i32.add (local.get $at) (i32.const 4)))
      (br $next)))
    (local.set $at (i32.const 1080))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.wrap_i64 (i64.add (i64.const 48) (i64.rem_u (local.get $sum) (i64.const 10)))))
      (local.set $sum (i64.div_u (local.get $sum) (i64.const 10)))
      (br_if $digit (i64.ne (local.get $sum) (i64.const 0))))
    (call $ok (local.get $at) (i32.sub (i32.const 1080) (local.get $at))))
  (data (i32.const 1080) "{shape}{digest}")
  (data (i32.const 2048) "{data}")"#,
        after = 2048 + bytes,
    )
}

/// Runs the program with this digest, which the version has compiled already, on ids (u32) and a mask (f32) of one shape, and returns
/// the sum of the 32-bit words of its output.
pub(crate) fn runs(digest: &str, shape: [u32; 2], ids: &[u8], mask: &[u8]) -> Result<Vec<u8>> {
    let data: String = ids.iter().chain(mask).map(|byte| format!("\\{byte:02x}")).collect();
    component(PROGRAMS, &forward(digest, shape, &data))
}

/// Returns its input.
pub(crate) fn echo() -> Result<Vec<u8>> {
    component("", ECHO)
}

/// Runs `add/1` on two one-element tensors `n` times; the input is `{"n": …}`.
pub(crate) fn adds() -> Result<Vec<u8>> {
    component(TENSORS, ADDS)
}

fn component(imports: &str, functions: &str) -> Result<Vec<u8>> {
    let broken = |what: &str, why: String| Failure::environment(format!("a benchmark's guest: {what}: {why}"));
    // `describe` returns three strings from the record at 0; the result of `load`, all zero, is at 32.
    let text = format!(
        r#"(module
  {imports}
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 65536))
  (func $alloc (param $bytes i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $at) (local.get $bytes)))
    (local.get $at))
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (call $alloc (local.get 3)))
  (func $ok (param $ptr i32) (param $len i32) (result i32) (local $ret i32)
    (local.set $ret (call $alloc (i32.const 16)))
    (i32.store (local.get $ret) (i32.const 0))
    (i32.store offset=4 (local.get $ret) (local.get $ptr))
    (i32.store offset=8 (local.get $ret) (local.get $len))
    (local.get $ret))
  (func (export "maquette:model/predictor@0.1.0#describe") (result i32) (i32.const 0))
  (func (export "maquette:model/predictor@0.1.0#load") (result i32) (i32.const 32))
  {functions}
  (export "maquette:model/predictor@0.1.0#predict" (func $predict))
  (data (i32.const 0) "\40\00\00\00\11\00\00\00\52\00\00\00\02\00\00\00\55\00\00\00\03\00\00\00")
  (data (i32.const 64) "{{\22type\22:\22object\22}}\00{{}}\00wat"))"#
    );
    let mut module = wat::parse_str(&text).map_err(|e| broken("text", e.to_string()))?;
    let mut files = SourceMap::new();
    for (path, bytes) in sdk::contract() {
        files.push_str(path, String::from_utf8_lossy(bytes));
    }
    let group = files.parse().map_err(|(_, e)| broken("contract", e.to_string()))?;
    let mut resolve = Resolve::default();
    let package = resolve
        .push_group(group)
        .map_err(|e| broken("contract", e.to_string()))?;
    let world = resolve
        .select_world(&[package], Some("model"))
        .map_err(|e| broken("world", e.to_string()))?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)
        .map_err(|e| broken("metadata", e.to_string()))?;
    ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|e| broken("encoding", format!("{e:#}")))
}

/// Writes a component and names it as a model without weights.
pub(crate) fn parts(folder: &Path, name: &str, wasm: &[u8]) -> Result<Parts> {
    let path = folder.join(name);
    std::fs::write(&path, wasm).map_err(|e| Failure::file("write", &path, &e))?;
    Ok(Parts {
        component: Part {
            digest: Digest::of(wasm).to_string(),
            path,
        },
        weights: Default::default(),
        assets: Default::default(),
        limits: Limits::default(),
    })
}

/// Compiles a program in a guest's name, so that the guest finds it: nobody finds what another has compiled.
pub(crate) fn compile_for(host: &Host, parts: &Parts, description: &Description) -> Result<Arc<Program>> {
    let failed = |error: Error| Failure::failed(format!("the tensor runtime: {}", error.message));
    let open = |(name, part): (&String, &Part)| {
        let file = host.runtime().weights().open(&part.digest, &part.path)?;
        Ok((name.clone(), file))
    };
    let files = parts
        .weights
        .iter()
        .map(open)
        .collect::<std::result::Result<_, Error>>();
    let budget = Budget::new(parts.limits.tensor_bytes);
    Scope::new(Arc::clone(host.runtime()), budget, Control::default())
        .owned_by(parts.component.digest.as_str().into())
        .compile(description, &files.map_err(failed)?)
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::local::How;
    use serde_json::json;

    #[test]
    fn a_guest_runs_a_program_that_was_compiled_for_it() {
        use maquette_tensor::ops::program::{Input, Node};
        use maquette_tensor::ops::{DType, Dim};

        let folder = tempfile::tempdir().unwrap();
        let host = Host::start_in(&folder.path().join("cache"), maquette_tensor::Device::Cpu).unwrap();
        let input = |name: &str, dtype| Input {
            name: name.to_owned(),
            dtype,
            shape: vec![Dim::from(2_u32), Dim::from(3_u32)],
        };
        let description = Description {
            inputs: vec![input("ids", DType::U32), input("mask", DType::F32)],
            nodes: vec![Node {
                op: "add/1".to_owned(),
                inputs: vec![1, 1],
                attrs: Vec::new(),
                location: String::new(),
            }],
            outputs: vec![2],
            ..Description::default()
        };
        let mask: Vec<u8> = (0..6).flat_map(|_| 0.5_f32.to_le_bytes()).collect();
        let wasm = runs(&description.digest(), [2, 3], &[0; 24], &mask).unwrap();
        let parts = parts(folder.path(), "runs.wasm", &wasm).unwrap();
        compile_for(&host, &parts, &description).unwrap();
        let model = host.open(parts).unwrap();
        let (made, report) = model.call(json!({}), How::default()).unwrap();
        let sum = 6 * u64::from(1_f32.to_bits());
        assert_eq!(made.ok().map(|m| m.output), Some(json!(sum)));
        assert_eq!(
            (report.program_runs, report.crossings),
            (1, 5),
            "find, two uploads, run, read"
        );
    }

    #[test]
    fn the_guests_do_what_is_measured() {
        let folder = tempfile::tempdir().unwrap();
        let host = Host::start_in(&folder.path().join("cache"), maquette_tensor::Device::Cpu).unwrap();
        let echo = host
            .open(parts(folder.path(), "echo.wasm", &echo().unwrap()).unwrap())
            .unwrap();
        let (made, _) = echo.call(json!({"a": [1, "x"]}), How::default()).unwrap();
        assert_eq!(made.ok().map(|m| m.output), Some(json!({"a": [1, "x"]})));

        let adds = host
            .open(parts(folder.path(), "adds.wasm", &adds().unwrap()).unwrap())
            .unwrap();
        let (made, report) = adds.call(json!({"n": 123}), How::default()).unwrap();
        assert_eq!(made.ok().map(|m| m.output), Some(json!(0)));
        assert_eq!(report.ops, 123);
    }
}

//! What a contributor is told about a component. The components are made from the contract, or from the contract with a change.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use wit_component::{ComponentEncoder, StringEncoding, dummy_module, embed_component_metadata};
use wit_parser::{LiftLowerAbi, ManglingAndAbi, SourceMap};

use super::*;

/// A component for the contract after `change`: it imports and exports all of it, and does nothing.
pub(crate) fn component(change: impl Fn(String) -> String) -> Vec<u8> {
    let mut files = SourceMap::new();
    for (path, text) in contract::FILES {
        files.push_str(path, change(text.to_owned()));
    }
    let mut resolve = Resolve::default();
    let package = resolve.push_group(files.parse().map_err(|(_, e)| e).unwrap()).unwrap();
    let world = resolve.select_world(&[package], Some("model")).unwrap();
    let mut module = dummy_module(&resolve, world, ManglingAndAbi::Legacy(LiftLowerAbi::Sync));
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default().module(&module).unwrap().encode().unwrap()
}

fn replaced(from: &str, to: &str) -> Report {
    let seen = std::cell::Cell::new(false);
    let wasm = component(|text| {
        seen.set(seen.get() || text.contains(from));
        text.replace(from, to)
    });
    assert!(seen.get(), "the contract has no `{from}`");
    check(&wasm)
}

/// A component of the contract's exports that also imports `import`, as component text.
fn importing(import: &str) -> Report {
    let report = check(&wat::parse_str(format!("(component {import})")).unwrap());
    let missing = "the component does not export `maquette:model/predictor@0.1.0`";
    let (exports, rest) = report.problems.into_iter().partition(|p: &Problem| p.what == missing);
    assert_eq!(Vec::len(&exports), 1);
    Report {
        problems: rest,
        ..report
    }
}

#[test]
fn a_component_for_the_contract_has_no_problem() {
    let report = check(&component(|text| text));
    assert_eq!(report.to_string(), "");
    assert!(report.ok());
    assert_eq!(report.exports, ["maquette:model/predictor@0.1.0"]);
    assert!(
        report.imports.contains(&"maquette:model/tensors@0.1.0".to_owned()),
        "{:?}",
        report.imports
    );
    assert_eq!(report.summary(), "no problem");
}

#[test]
fn what_start_up_code_needs_of_wasi_is_allowed() {
    let names = [
        "wasi:cli/environment@0.2.0",
        "wasi:cli/exit@0.2.6",
        "wasi:cli/stdin@0.2.6",
        "wasi:cli/stdout@0.2.6",
        "wasi:cli/stderr@0.2.6",
        "wasi:cli/terminal-output@0.2.6",
        "wasi:clocks/wall-clock@0.2.6",
        "wasi:clocks/monotonic-clock@0.2.6",
        "wasi:random/random@0.2.6",
        "wasi:io/streams@0.2.6",
        "wasi:filesystem/types@0.2.6",
        "wasi:filesystem/preopens@0.2.6",
    ];
    for name in names {
        let report = importing(&format!("(import \"{name}\" (instance))"));
        assert_eq!(report.to_string(), "", "{name}");
    }
}

#[test]
fn what_is_no_component_is_named() {
    let table: &[(&[u8], &str)] = &[
        (
            b"\0asm\x01\0\0\0",
            "error: this is a core WebAssembly module, not a component\n  --> the file's first bytes\n  = help: build for the target \
             wasm32-wasip2, as `maquette build` does; wasm32-unknown-unknown and wasm32-wasip1 make modules",
        ),
        (
            b"\x7fELF\x02\x01\x01",
            "error: this is compiled for one machine (.cwasm or a program), not a component\n  --> the file's first bytes\n  = help: \
             name the .wasm file that it was compiled from",
        ),
        (
            b"",
            "error: the file is empty\n  --> the file's first bytes\n  = help: build it again",
        ),
        (
            b"(component)",
            "error: this is WebAssembly as text\n  --> the file's first bytes\n  = help: turn it into a binary first: `wasm-tools parse \
             FILE.wat -o FILE.wasm`",
        ),
        (
            b"PK\x03\x04",
            "error: this is not WebAssembly\n  --> the file's first bytes\n  = help: name the .wasm file that `maquette build` made",
        ),
        (
            b"\0asm\x0d\0\x02\0",
            "error: this is WebAssembly of a version that this build does not know\n  --> the file's first bytes\n  = help: build it \
             again with the tools that `maquette build` uses",
        ),
    ];
    for (bytes, expected) in table {
        assert_eq!(check(bytes).to_string(), *expected);
    }
}

#[test]
fn a_component_that_is_cut_off_is_not_valid() {
    let wasm = component(|text| text);
    for keep in [9, wasm.len() / 2, wasm.len() - 1] {
        let report = check(&wasm[..keep]);
        assert!(
            report.problems[0].what.starts_with("the component is not valid: "),
            "{keep}: {report}"
        );
        assert!(report.problems[0].where_.starts_with("byte 0x"), "{report}");
    }
}

#[test]
fn a_component_over_the_size_limit_is_refused_unread() {
    let report = check(&vec![0; (MAX_COMPONENT + (1 << 19)) as usize]);
    assert_eq!(
        report.to_string(),
        "error: the component has 64.5 MiB, at most 64 MiB are allowed\n  --> the file\n  = help: move data into [weights] or [assets] \
         of maquette.toml; build with `lto = true` and `strip = true`"
    );
}

#[test]
fn a_component_without_the_predictor_is_told_how_to_get_one() {
    let report = check(&wat::parse_str("(component)").unwrap());
    assert_eq!(
        report.to_string(),
        "error: the component does not export `maquette:model/predictor@0.1.0`\n  --> exports\n  = help: end src/lib.rs with \
         `maquette_sdk::export!(YourModel);` and build a `cdylib`"
    );
}

#[test]
fn imports_outside_the_world_are_named_with_cause_and_help() {
    let table = [
        (
            "(import \"wasi:sockets/tcp@0.2.6\" (instance))",
            "error: the component imports `wasi:sockets/tcp@0.2.6`, which no model may use (`std::net`, or a crate that opens \
             connections)\n  --> import `wasi:sockets/tcp@0.2.6`\n  = help: models have no network: take what you need as input, or \
             ship it in [weights] or [assets]; `cargo tree` shows which crate it is",
        ),
        (
            "(import \"wasi:http/outgoing-handler@0.2.0\" (instance))",
            "error: the component imports `wasi:http/outgoing-handler@0.2.0`, which no model may use (an HTTP client)\n  --> import \
             `wasi:http/outgoing-handler@0.2.0`\n  = help: models have no network: take what you need as input, or ship it in \
             [weights] or [assets]",
        ),
        (
            "(import \"wasi:nn/graph@0.2.0-rc\" (instance))",
            "error: the component imports `wasi:nn/graph@0.2.0-rc`, which no model may use (another host's inference)\n  --> import \
             `wasi:nn/graph@0.2.0-rc`\n  = help: use the SDK's `Tensor` and `nn`: they run on the host",
        ),
        (
            "(import \"wasi:io/streams@0.3.0\" (instance))",
            "error: the component imports `wasi:io/streams@0.3.0`, which no model may use: the host has WASI 0.2\n  --> import \
             `wasi:io/streams@0.3.0`\n  = help: build for wasm32-wasip2 with the tools that `maquette doctor` names",
        ),
        (
            "(import \"acme:gpu/kernels@1.0.0\" (instance))",
            "error: the component imports `acme:gpu/kernels@1.0.0`, which no model may use (an interface of another host)\n  --> import \
             `acme:gpu/kernels@1.0.0`\n  = help: build with the SDK alone: models use `maquette:model` and a part of WASI 0.2",
        ),
        (
            "(import \"now\" (func))",
            "error: the component imports the function `now`, which no model may use\n  --> import `now`\n  = help: it was built for \
             another host; build it with the SDK, for wasm32-wasip2",
        ),
        (
            "(import \"maquette:model/tensor@0.1.0\" (instance))",
            "error: this host has no interface `maquette:model/tensor@0.1.0`\n  --> import `maquette:model/tensor@0.1.0`\n  = help: did \
             you mean `tensors`?",
        ),
        (
            "(import \"maquette:model/holograms@0.1.7\" (instance))",
            "error: this host has no interface `maquette:model/holograms@0.1.7`\n  --> import `maquette:model/holograms@0.1.7`\n  = help: \
             it was built with a newer SDK: use a newer Maquette, or the SDK of this one",
        ),
        (
            "(import \"maquette:model/run@0.2.0\" (instance))",
            "error: the component imports `maquette:model/run@0.2.0`, this host has `maquette:model/run@0.1.0`\n  --> import \
             `maquette:model/run@0.2.0`\n  = help: use a newer Maquette, or build with the SDK of this one (`maquette new` shows which)",
        ),
        (
            "(import \"maquette:model/run@0.0.9\" (instance))",
            "error: the component imports `maquette:model/run@0.0.9`, this host has `maquette:model/run@0.1.0`\n  --> import \
             `maquette:model/run@0.0.9`\n  = help: build again with the SDK of this Maquette (`maquette new` shows which)",
        ),
        (
            "(import \"maquette:model/run@0.1.0\" (instance (export \"remaining\" (func (result u64)))))",
            "error: this host's `maquette:model/run@0.1.0` has no function `remaining`\n  --> import `maquette:model/run@0.1.0`\n  = help: \
             did you mean `remaining-ms`?",
        ),
        (
            "(import \"maquette:model/run@0.1.4\" (instance (export \"tip\" (func))))",
            "error: this host's `maquette:model/run@0.1.0` has no function `tip`\n  --> import `maquette:model/run@0.1.4`\n  = help: the \
             component was built for maquette:model/run@0.1.4, this host has maquette:model/run@0.1.0: use a newer Maquette",
        ),
        (
            "(import \"maquette:model/run@0.1.0\" (instance (export \"seed\" (func (param \"of\" u8) (result u32)))))",
            "error: `seed` has another type than in the contract\n  expected: seed: func() -> u64\n  found:    seed: func(of: u8) -> \
             u32\n  --> import `maquette:model/run@0.1.0`\n  = help: build with the SDK, or with the .wit files, of this Maquette",
        ),
    ];
    for (import, expected) in table {
        assert_eq!(importing(import).to_string(), expected, "\n{import}");
    }
}

#[test]
fn an_import_of_a_later_patch_that_this_host_can_serve_is_no_problem() {
    let import = "(import \"maquette:model/run@0.1.9\" (instance (export \"seed\" (func (result u64)))))";
    assert_eq!(importing(import).to_string(), "");
}

#[test]
fn a_changed_signature_shows_both_texts() {
    let report = replaced(
        "predict: func(input: string) -> result<string, error>",
        "predict: func(input: list<u8>) -> string",
    );
    assert_eq!(
        report.to_string(),
        "error: `predict` has another type than in the contract\n  expected: predict: func(input: string) -> result<string, error>\n  \
         found:    predict: func(input: list<u8>) -> string\n  --> export `maquette:model/predictor@0.1.0`\n  = help: build with the SDK, \
         or with the .wit files, of this Maquette"
    );
    assert!(!report.ok());
    assert_eq!(
        report.summary(),
        "`predict` has another type than in the contract; build with the SDK, or with the .wit files, of this Maquette"
    );
}

#[test]
fn a_changed_method_is_named_as_code_names_it() {
    let report = replaced(
        "read-range: func(start: u64, count: u64)",
        "read-range: func(start: u32)",
    );
    assert_eq!(report.problems.len(), 1, "{report}");
    assert_eq!(
        report.problems[0].what,
        "`tensor.read-range` has another type than in the contract\n  expected: read-range: func(start: u64, count: u64) -> \
         result<list<u8>, error>\n  found:    read-range: func(start: u32) -> result<list<u8>, error>"
    );
}

#[test]
fn a_changed_type_is_shown_where_the_words_of_a_function_are_the_same() {
    let report = replaced("    code: error-code,\n    message: string,", "    message: string,");
    let problem = report
        .problems
        .iter()
        .find(|p| p.what.starts_with("`predict`"))
        .unwrap();
    assert_eq!(
        problem.what,
        "`predict` has another type than in the contract\n  expected: type error = record { code: error-code, message: string }\n  \
         found:    type error = record { message: string }"
    );
}

#[test]
fn a_missing_function_of_the_predictor_is_named() {
    let report = replaced("  @since(version = 0.1.0)\n  describe: func() -> description;", "");
    let problem = report.errors().next().unwrap();
    assert_eq!(
        problem.what,
        "`describe` is missing in the export `maquette:model/predictor@0.1.0`"
    );
    assert!(problem.help.contains("the SDK's `export!` does"));
}

#[test]
fn a_component_of_another_minor_version_is_told_which_side_to_renew() {
    let report = check(&component(|text| text.replace("0.1.0", "0.2.0")));
    assert!(!report.ok());
    let export = report.problems.iter().find(|p| p.where_.starts_with("export")).unwrap();
    assert_eq!(
        export.what,
        "the component exports `maquette:model/predictor@0.2.0`, this host calls `maquette:model/predictor@0.1.0`"
    );
    let help = "use a newer Maquette, or build with the SDK of this one (`maquette new` shows which)";
    assert!(report.problems.iter().all(|p| p.help == help), "{report}");
}

#[test]
fn an_export_that_nobody_calls_is_only_a_warning() {
    let report = replaced("export predictor;", "export predictor;\n  export extra: func();");
    assert_eq!(report.to_string(), "");
    let report = replaced(
        "export predictor;",
        "export predictor;\n  export run-it: interface { go: func(); }",
    );
    assert!(report.ok());
    assert_eq!(
        report.to_string(),
        "warning: the host never calls `run-it`\n  --> export `run-it`\n  = help: nothing, if it is meant for another host; the host \
         calls only `maquette:model/predictor`"
    );
}

#[test]
fn garbage_never_makes_a_check_panic() {
    let wasm = component(|text| text);
    // A byte changed anywhere is found, or does no harm.
    for at in (8..wasm.len()).step_by(wasm.len() / 400 + 1) {
        for value in [0, 0x7f, 0xff] {
            let mut broken = wasm.clone();
            broken[at] = value;
            let report = check(&broken);
            assert_eq!(report.ok(), report.errors().count() == 0);
        }
    }
}

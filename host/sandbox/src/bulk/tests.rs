//! Divided instructions run beside whole ones, and what of a component stays as it was.

#![allow(clippy::unwrap_used)]
use proptest::prelude::*;
use wasmtime::{Engine, Instance, Module, Store, Trap};

use super::*;

const PAGE: u32 = 65536;
/// Sizes of two memories and of a data segment, in bytes: some pieces and a bit.
const SIZES: [u32; 3] = [70 * PAGE, 50 * PAGE, 2 * PIECE + 1000];

fn module() -> Vec<u8> {
    let data: String = (0..SIZES[2])
        .map(|i| format!("\\{:02x}", (i * 7 + i / 251) % 256))
        .collect();
    let text = format!(
        r#"(module
          (memory (export "first") {}) (memory (export "second") {}) (data $data "{data}")
          (func (export "fill") (param i32 i32 i32) (memory.fill (local.get 0) (local.get 1) (local.get 2)))
          (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
          (func (export "copy-over") (param i32 i32 i32) (memory.copy 1 0 (local.get 0) (local.get 1) (local.get 2)))
          (func (export "init") (param i32 i32 i32) (memory.init 1 $data (local.get 0) (local.get 1) (local.get 2)))
          (func (export "drop") (param i32 i32 i32) (data.drop $data)))"#,
        SIZES[0] / PAGE,
        SIZES[1] / PAGE
    );
    wat::parse_str(text).unwrap()
}

/// What a sequence of instructions leaves in memory, or the trap that it ends with.
fn run(module: &Module, steps: &[(&str, [u32; 3])]) -> Result<[Vec<u8>; 2], Trap> {
    let mut store = Store::new(module.engine(), ());
    let instance = Instance::new(&mut store, module, &[]).unwrap();
    for (name, [a, b, c]) in steps {
        let step = instance
            .get_typed_func::<(u32, u32, u32), ()>(&mut store, name)
            .unwrap();
        step.call(&mut store, (*a, *b, *c))
            .map_err(|e| *e.downcast_ref::<Trap>().unwrap())?;
    }
    Ok(["first", "second"].map(|name| instance.get_memory(&mut store, name).unwrap().data(&store).to_vec()))
}

/// Addresses and lengths: anything, often near where pieces and memories end.
fn number() -> impl Strategy<Value = u32> {
    let edges = (
        0_u32..5,
        prop::sample::select(vec![0, PIECE, 2 * PIECE, SIZES[0], SIZES[1], SIZES[2]]),
    );
    prop_oneof![
        8 => 0..SIZES[2],
        4 => edges.prop_map(|(more, edge)| (edge + more).saturating_sub(2)),
        1 => any::<u32>(),
    ]
}

fn steps() -> impl Strategy<Value = Vec<(&'static str, [u32; 3])>> {
    let names = vec!["fill", "copy", "copy", "copy-over", "init", "init", "drop"];
    let steps = prop::collection::vec((prop::sample::select(names), [number(), number(), number()]), 1..8);
    steps.prop_map(|mut steps| {
        // Something to copy.
        steps.insert(0, ("init", [0, 0, SIZES[2]]));
        steps.insert(1, ("fill", [PIECE, 3, PIECE]));
        steps.insert(2, ("copy", [0, PIECE - 3000, PIECE]));
        steps
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_guest_cannot_tell_a_divided_instruction_from_a_whole_one(steps in steps()) {
        static MODULES: std::sync::OnceLock<[Module; 2]> = std::sync::OnceLock::new();
        let modules = MODULES.get_or_init(|| {
            let (engine, whole) = (Engine::default(), module());
            let divided = divide_module(&whole, 0).unwrap();
            assert_ne!(divided, whole);
            [&whole[..], &divided].map(|module| Module::new(&engine, module).unwrap())
        });
        let [whole, divided] = modules.each_ref().map(|module| run(module, &steps));
        // Not by `assert_eq`, which would print megabytes.
        prop_assert_eq!(whole.as_ref().err(), divided.as_ref().err());
        prop_assert!(whole == divided, "memory differs");
    }
}

/// A component around a core module in WebAssembly text.
fn component(module: &str) -> Vec<u8> {
    wat::parse_str(format!("(component {module})")).unwrap()
}

#[test]
fn a_component_with_nothing_to_divide_stays_as_it_is() {
    let wasm = component(
        r#"(core module (memory 1) (data $d "few")
             (func (param i32) (memory.init $d (i32.const 0) (i32.const 0) (local.get 0)))
             (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0x100000)))
             (func (memory.copy (i32.const 0) (i32.const 0) (i32.const 16))))"#,
    );
    assert!(matches!(divide(&wasm).unwrap(), Cow::Borrowed(_)));
}

#[test]
fn modules_in_nested_components_are_divided_and_nesting_has_an_end() {
    let fill = "(core module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const -9))))";
    let nested = |depth| component(&format!("{}{fill}{}", "(component ".repeat(depth), ")".repeat(depth)));
    let divided = divide(&nested(MAX_DEPTH)).unwrap().into_owned();
    assert!(divided.len() > nested(MAX_DEPTH).len());
    let mut validator = wasmparser::Validator::new();
    validator.validate_all(&divided).unwrap();
    let refused = divide(&nested(MAX_DEPTH + 1)).unwrap_err();
    assert_eq!(
        refused.message,
        "components lie in each other more than 16 deep: link them into fewer"
    );
}

#[test]
fn a_malformed_instruction_is_refused_with_its_place() {
    let mut wasm =
        component("(core module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const -9))))");
    let at = wasm.windows(2).position(|bytes| bytes == [0xfc, 0x0b]).unwrap();
    wasm[at + 1] = 0x7f;
    let refused = divide(&wasm).unwrap_err();
    assert!(
        refused.message.starts_with("the component is not valid: ") && refused.message.contains(&format!("{at:#x}")),
        "{} at {at:#x}",
        refused.message
    );
}

/// Custom sections of the first module of a component.
fn custom_sections(component: &[u8]) -> Vec<String> {
    let module = sections(component, 0)
        .unwrap()
        .into_iter()
        .find(|section| section.id == MODULE)
        .unwrap();
    let customs = sections(module.content, 0)
        .unwrap()
        .into_iter()
        .filter(|section| section.id == CUSTOM);
    customs
        .map(|section| section.reader().read_unlimited_string().unwrap().to_owned())
        .collect()
}

#[test]
fn what_tells_places_in_code_goes_and_the_rest_stays() {
    let divided = divide(&component(
        r#"(core module (memory 1) (func (param i32) (local i64 f32) (memory.fill (i32.const 0) (i32.const 0) (local.get 0)))
             (@custom ".debug_line" "places") (@custom "other" "kept"))"#,
    ))
    .unwrap()
    .into_owned();
    assert_eq!(custom_sections(&divided), ["other"]);
    wasmparser::Validator::new().validate_all(&divided).unwrap();
}

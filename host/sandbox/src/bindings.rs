//! Rust bindings of the contract in `wit/`, generated for a synchronous host.

// What is generated is documented in the WIT.
#![allow(missing_docs, unreachable_pub, clippy::all)]

/// What a tensor handle stands for: a slot of [`crate::state::State::tensors`].
pub enum TensorHandle {}
/// What a program handle stands for: a slot of [`crate::state::State::programs`].
pub enum ProgramHandle {}
/// What a cache's handle stands for: a slot of [`crate::state::State::caches`].
pub enum CacheHandle {}
/// What an input file's handle stands for: a slot of [`crate::state::State::inputs`].
pub enum InputHandle {}
/// What an output file's handle stands for: a slot of [`crate::state::State::outputs`].
pub enum OutputHandle {}

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "model",
    imports: { default: trappable },
    trappable_error_type: {
        "maquette:model/types.error" => crate::state::HostError,
    },
    with: {
        "maquette:model/tensors.tensor": crate::bindings::TensorHandle,
        "maquette:model/programs.program": crate::bindings::ProgramHandle,
        "maquette:model/kv-cache.cache": crate::bindings::CacheHandle,
        "maquette:model/files.input-file": crate::bindings::InputHandle,
        "maquette:model/files.output-file": crate::bindings::OutputHandle,
    },
    require_store_data_send: true,
});

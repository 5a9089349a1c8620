//! Rust bindings of the contract in `wit/`, generated for a synchronous host.

// What is generated is documented in the WIT.
#![allow(missing_docs, unreachable_pub, clippy::all)]

wasmtime::component::bindgen!({
    path: "../../wit",
    world: "model",
    imports: { default: trappable },
    trappable_error_type: {
        "maquette:model/types.error" => crate::state::HostError,
    },
    with: {
        "maquette:model/tensors.tensor": crate::state::TensorHandle,
        "maquette:model/programs.program": crate::state::ProgramHandle,
        "maquette:model/files.input-file": crate::state::InputHandle,
        "maquette:model/files.output-file": crate::state::OutputHandle,
    },
    require_store_data_send: true,
});

//! Tensors, budgets, weights and programs on candle. Knows nothing of wasm and can be used without it.
//!
//! A [`Runtime`] is a [`Device`] with its weights and compiled programs; a [`Scope`] is one call's world of tensors, under
//! one [`Budget`]. Whatever reaches a kernel has passed the rules of `maquette-ops` and fits the budget first: candle aborts or
//! panics on some of what it does not check.
//!
//! Tensors of a processor are the caller's own, and ops run on its thread. Those of a GPU belong to a thread that has the GPU: ops are
//! sent there, and only what is read is waited for (`cuda.rs`).
//!
//! Threads: kernels share one team, sized to the machine; what candle still does uses rayon's. Calls from several threads
//! take turns op by op; a server therefore runs few calls at once, and queues the rest.

#[cfg(target_endian = "big")]
compile_error!("elements cross the boundary as they lie in memory, which must be little-endian");

mod budget;
mod buffers;
mod control;
mod cuda;
mod device;
mod gguf;
mod kernels;
mod kv_cache;
mod matrix;
mod memory;
mod program;
mod resident;
mod runtime;
mod safetensors;
mod scope;
mod tensor;
mod weight_file;
mod work;

pub use budget::{Budget, Charge};
pub use control::Control;
pub use device::Device;
pub use kv_cache::KvCache;
pub use maquette_kernels::gate;
pub use maquette_kernels::team::{alone_while, set_threads};
pub use maquette_ops as ops;
pub use memory::{Full, Memory, Share};
pub use program::{Program, ProgramCache, ProgramCost};
pub use resident::WeightStore;
pub use runtime::{Runtime, RuntimeConfig};
pub use scope::{Scope, Stats};
pub use tensor::Tensor;
pub use weight_file::{TensorInfo, WeightFile};

/// Starts the threads that kernels share, with the priority of whoever calls it; otherwise the first op that shares work does.
pub fn start_threads() {
    maquette_kernels::team::team();
    rayon::current_num_threads();
}

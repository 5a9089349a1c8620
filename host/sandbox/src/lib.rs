//! One call of one component: engine settings, compilation and its cache, snapshots, limits, and the host's side of the
//! contract in `wit/`. Knows nothing of HTTP.
//!
//! [`prepare`] turns a component into an artifact once; [`Guest::open`] opens it; [`Guest::call`] serves a call in a sandbox
//! made for it alone.

mod bindings;
mod bulk;
mod cache;
mod call;
mod engine;
mod error;
pub mod files;
mod guest;
mod imports;
mod json;
mod limits;
mod log;
mod prepare;
mod slab;
mod snapshot;
mod state;
mod store;
mod trap;
mod wasi;
mod wit;

pub use call::{Call, Cancel, Event, Failure, InputFile, LogLevel, LogLine, Outcome, Output, OutputFile, Report};
pub use engine::{EPOCH_TICK, Engine, EngineConfig, STACK_BYTES};
pub use error::{Error, ErrorKind};
pub use guest::Guest;
pub use imports::{MAX_COMPONENT_BYTES, check_imports};
pub use limits::{Limits, MAX_MEMORY_BYTES};
pub use maquette_tensor::ops::Code;
pub use prepare::{Description, Load, Part, Parts, Prepared, prepare};

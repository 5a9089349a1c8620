//! The op table's pure half: names, documentation, attributes, shape and dtype rules, costs, and program descriptions.
//!
//! No I/O and no tensors: the host checks with it, the SDK records with it, the documentation is generated from it.

mod attrs;
mod cost;
mod digest;
mod dim;
mod dtype;
mod error;
mod extent;
pub mod program;
mod rules;
mod table;
mod types;

pub use attrs::{attr_axis, attr_dtype, attr_flag, attr_float, attr_int, attr_padding, attr_pair, normalise};
pub use cost::{Cost, Form, Operand};
pub use dim::Dim;
pub use dtype::DType;
pub use error::{Code, Error};
pub use extent::Extent;
pub use rules::broadcast;
pub use table::{Accepts, AttrKind, AttrSpec, InputSpec, Occurs, Op, OpId, OpSpec, lookup, nearest, spec, table};
pub use types::{Attr, Shape, Type, check_shape, show};

/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// The most elements of a tensor: kernels index with 32 bits.
pub const MAX_ELEMENTS: u64 = (1 << 31) - 1;

/// Elements that a CPU computes at once of a large tensor, where it cannot be stopped in between.
pub const PIECE: usize = 128 << 10;

/// The most nodes of a program.
pub const MAX_NODES: usize = 65_536;

/// The most bytes of a program's constants together.
pub const MAX_CONSTANT_BYTES: usize = 1 << 20;

/// The most symbols of a program.
pub const MAX_SYMBOLS: usize = 256;

/// The most layers of a program's caches together.
pub const MAX_CACHE_LAYERS: usize = 1024;

/// The most bytes of a program's description, constants and names included.
pub const MAX_DESCRIPTION_BYTES: usize = 32 << 20;

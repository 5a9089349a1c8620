//! Write machine-learning models as WebAssembly components for Maquette.
//!
//! ```
//! use maquette::prelude::*;
//!
//! /// Who to greet.
//! #[derive(Input)]
//! struct Person {
//!     /// The name to greet.
//!     #[input(default = "world", max_length = 100)]
//!     name: String,
//! }
//!
//! struct Hello;
//!
//! impl Model for Hello {
//!     type Input = Person;
//!     type Output = String;
//!
//!     fn load(_package: &Package) -> Result<Self> {
//!         Ok(Hello)
//!     }
//!
//!     fn predict(&self, person: Person) -> Result<String> {
//!         Ok(format!("Hello, {}!", person.name))
//!     }
//! }
//!
//! maquette::export!(Hello);
//! ```
//!
//! - [`Model`] is what you implement: [`Model::load`] runs once, when a version is published, and its result is kept as a
//!   snapshot; [`Model::predict`] serves a call in a fresh copy of it.
//! - [`derive@Input`] and [`derive@Output`] make the JSON Schema out of your types.
//! - [`Tensor`] lives in the host and has candle's method names; [`compile`] records what you do with tensors as a program that
//!   the host compiles once and runs with one call.
//! - [`nn`] has layers that load from weights, [`text`] has tokenizers and chat templates, `audio` (a feature) reads sound and makes
//!   spectrograms.

// Lets the derived code name this crate from inside it, too.
extern crate self as maquette;

#[cfg(feature = "audio")]
pub mod audio;
mod cache;
mod error;
mod export;
mod file;
mod input;
mod model;
#[cfg(feature = "nn")]
pub mod nn;
mod ops;
mod output;
mod package;
mod record;
pub mod run;
mod shape;
mod stream;
mod tensor;
#[cfg(feature = "text")]
pub mod text;
mod weights;

/// Bindings of the contract, generated from `wit/`. The rest of this crate is made of it; models rarely need it.
#[allow(missing_docs, clippy::all)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "model",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "maquette::bindings",
    });
}

#[doc(hidden)]
pub mod private {
    //! What derived code and `export!` need.
    pub use crate::export::{describe, keep, load, predict};
    pub use crate::input::{Object, schema_of_choices, schema_of_object};
    pub use crate::output::write_text;
    pub use serde_json::{Map, Value, json};
}

pub use cache::{CacheSpec, KvCache};
pub use error::{Context, Error, Result};
pub use file::{File, FileWriter};
pub use input::{Field, Input};
pub use maquette_ops::{Attr, Code, DType, Dim, Op};
/// Makes a struct the input of a model, or an enum without fields a choice in one.
///
/// Doc comments become descriptions. On fields, `#[input(…)]` takes `default = …`, `ge = …`, `le = …` (numbers), `min_length = …`,
/// `max_length = …`, `regex = "…"` (strings), `min_items = …`, `max_items = …` (lists), `secret`. A field without a default that is no
/// `Option` is required.
pub use maquette_sdk_derive::Input;
/// Makes a struct (an object) or an enum without fields (a string) an output.
pub use maquette_sdk_derive::Output;
pub use model::Model;
pub use ops::apply;
pub use output::Output;
pub use package::Package;
pub use record::{CacheSlot, Outputs, Program, Recorder, compile};
/// Any JSON.
pub use serde_json::Value;
pub use shape::{IntoDim, IntoShape};
pub use stream::{Stream, StreamedText};
pub use tensor::{Attend, Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d, Frames, Recurrent, Tensor};
pub use weights::Weights;

/// Everything that most models use.
pub mod prelude {
    #[cfg(feature = "audio")]
    pub use crate::audio::{self, Audio};
    #[cfg(feature = "nn")]
    pub use crate::nn;
    pub use crate::run::{debug, emit, info, progress, warn};
    #[cfg(feature = "text")]
    pub use crate::text;
    pub use crate::{
        Attend, CacheSpec, Context, DType, Dim, Error, File, FileWriter, Input, KvCache, Model, Output, Package,
        Program, Recorder, Result, Stream, StreamedText, Tensor, Weights, compile,
    };
}

//! Fuzz targets. No input to the tensor interface, no package, no file and no request makes the host panic, abort, hang or grow.
//!
//! A target is a function of bytes that panics if the promise is broken. The test suite runs each over its corpus and over mutations
//! of it (`tests/corpus.rs`); `run` drives the same functions with libFuzzer for as long as one likes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a target tells what it has found"
)]

mod components;
mod manifests;
pub mod mutate;
mod ops;
mod programs;
mod publishing;
mod requests;
mod streams;
mod tensors;
mod uploads;
mod urls;
mod weight_files;

/// A target: its name, which is its corpus' folder, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("ops", ops::run),
    ("programs", programs::run),
    ("safetensors", weight_files::safetensors),
    ("gguf", weight_files::gguf),
    ("manifests", manifests::run),
    ("publishing", publishing::run),
    ("uploads", uploads::run),
    ("streams", streams::run),
    ("requests", requests::run),
    ("components", components::run),
    ("urls", urls::run),
];

/// The longest input that is tried, in bytes; a small component is half of it.
pub const MAX_INPUT: usize = 8192;

//! Packages: manifest, weight sources, blob store, version identity, guest builds, checks.
//!
//! A contributor's folder holds a `maquette.toml`, Rust source (or a prebuilt component), cases and a model card.
//! [`assemble()`] turns it into a [`Package`]: every byte in a content-addressed [`blobs::BlobStore`], named by one
//! [`version::VersionManifest`] whose digest is the version's identity. Nothing here prints: what happens is told to a
//! [`Progress`], what fails is an [`Error`] that says what, where and how to fix it.

pub mod assemble;
pub mod blobs;
pub mod build;
pub mod cases;
pub mod check;
mod convert;
mod digest;
mod error;
mod folder;
pub mod manifest;
mod names;
mod process;
mod progress;
pub mod shards;
pub mod source;
pub mod toolchain;
pub mod version;

pub use assemble::{Package, assemble, assemble_with};
pub use convert::Convert;
pub use digest::{Digest, Hasher};
pub use error::{Error, Note, Result};
pub use progress::{Progress, Silent};

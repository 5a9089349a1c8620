//! Five thread functions that Debian's C library for WebAssembly lacks: there are no threads, and this says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process;

/// Without `core`, so that it compiles before any standard library exists for the target.
const SOURCE: &str = r#"#![feature(no_core, lang_items)]
#![no_core]
#![allow(internal_features)]
#[lang = "pointee_sized"] trait PointeeSized {}
#[lang = "meta_sized"] trait MetaSized: PointeeSized {}
#[lang = "sized"] trait Sized: MetaSized {}
#[lang = "copy"] trait Copy {}
impl Copy for i32 {}
impl Copy for usize {}
#[unsafe(no_mangle)] extern "C" fn pthread_attr_init(_: usize) -> i32 { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_attr_setstacksize(_: usize, _: usize) -> i32 { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_attr_destroy(_: usize) -> i32 { 0 }
#[unsafe(no_mangle)] extern "C" fn pthread_create(_: usize, _: usize, _: usize, _: usize) -> i32 { 58 /* ENOTSUP */ }
#[unsafe(no_mangle)] extern "C" fn pthread_detach(_: usize) -> i32 { 0 }
"#;

/// The static library, compiled on first use into the cache folder. `None` if it cannot be made: crates that mention threads then
/// do not link, all others do.
pub(super) fn library(rustc: &Path, cache: &Path) -> Option<PathBuf> {
    let folder = cache.join("toolchain");
    let library = folder.join("libno-threads-1.a");
    // The flags are one text split at spaces: a path with one in it cannot be passed.
    if library.to_str()?.contains(char::is_whitespace) {
        return None;
    }
    if library.is_file() {
        return Some(library);
    }
    fs::create_dir_all(&folder).ok()?;
    let work = tempfile::tempdir_in(&folder).ok()?;
    let (source, made) = (work.path().join("stub.rs"), work.path().join("stub.a"));
    fs::write(&source, SOURCE).ok()?;
    let mut command = Command::new(rustc);
    command.args([
        "--target",
        super::TARGET,
        "--crate-type",
        "staticlib",
        "--edition",
        "2024",
        "-O",
        "-Cpanic=abort",
        "-o",
    ]);
    command.arg(&made).arg(&source).env("RUSTC_BOOTSTRAP", "1");
    let finished = process::run(&mut command, Duration::from_secs(60), |_, _| (), || ()).ok()?;
    // Renamed into place: another process may be doing the same.
    (finished.success() && fs::rename(&made, &library).is_ok()).then_some(library)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::toolchain::Toolchain;

    #[test]
    fn the_library_is_made_once_where_it_is_needed() {
        let Ok(Toolchain::FromSource { rustc, .. }) = crate::toolchain::ready(&mut crate::Silent) else {
            return; // rustup's own target has these functions.
        };
        let dir = tempfile::tempdir().unwrap();
        let made = library(&rustc, dir.path()).unwrap();
        let bytes = fs::read(&made).unwrap();
        let written = made.metadata().unwrap().modified().unwrap();
        for name in ["pthread_attr_init", "pthread_create", "pthread_detach"] {
            assert!(bytes.windows(name.len()).any(|w| w == name.as_bytes()), "{name}");
        }
        assert_eq!(library(&rustc, dir.path()), Some(made.clone()));
        assert_eq!(made.metadata().unwrap().modified().unwrap(), written);
        assert_eq!(library(&rustc, &dir.path().join("with space")), None);
    }
}

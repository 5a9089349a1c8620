//! The tools that build a guest for `wasm32-wasip2`: finding them, and installing what is missing.
//!
//! With rustup, `rustup target add wasm32-wasip2` is all. Where rustup cannot download, Debian's packages give a compiler and the
//! source of the matching standard library, which cargo then builds once.

mod install;
mod stub;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Note, Progress, Result, folder, process};

pub use install::COMMANDS;

/// What guests are built for.
pub const TARGET: &str = "wasm32-wasip2";
/// The oldest compiler that builds guests: Rust 1.85 brought the edition of 2024.
const OLDEST: u32 = 85;
/// Where Debian's packages put things.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_STD: &str = "/usr/lib/rustlib/src/rust/library/std/Cargo.toml";
const DEBIAN_LIBC: &str = "/usr/lib/wasm32-wasi";

/// Tools that can build a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Toolchain {
    /// The compiler on `PATH` has the target's standard library.
    Installed {
        /// Where the compiler is installed.
        sysroot: PathBuf,
    },
    /// Debian's compiler builds the standard library from source; the linker is the one of the compiler on `PATH`.
    FromSource {
        /// Debian's compiler.
        rustc: PathBuf,
        /// The folder of the C library.
        libc: PathBuf,
        /// The folders of `wasm-component-ld` and `wasm-ld`.
        linkers: Vec<PathBuf>,
    },
}

/// What [`inspect`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Guests can be built.
    Ready(Toolchain),
    /// They cannot; each line names something that is missing.
    Missing(Vec<String>),
}

/// Looks for the tools and changes nothing. Takes well below a tenth of a second.
pub fn inspect() -> Status {
    // Both compilers are asked at once: each takes its time to start.
    let (sysroot, debian) = std::thread::scope(|scope| {
        let debian = scope.spawn(|| process::first_line(DEBIAN_RUSTC, &["-V"]));
        let sysroot = process::first_line("rustc", &["--print", "sysroot"]).map(PathBuf::from);
        (sysroot, debian.join().ok().flatten())
    });
    let mut missing = Vec::new();
    let cargo = process::on_path("cargo").is_some();
    if !cargo {
        missing.push("cargo is not on PATH".to_owned());
    }
    match &sysroot {
        Some(sysroot) if has_std(sysroot) && cargo => {
            return Status::Ready(Toolchain::Installed {
                sysroot: sysroot.clone(),
            });
        }
        Some(sysroot) if !has_std(sysroot) => {
            missing.push(format!(
                "the compiler in {} has no standard library for {TARGET}",
                sysroot.display()
            ));
        }
        Some(_) => {}
        None => missing.push("rustc is not on PATH".to_owned()),
    }
    match from_source(sysroot.as_deref(), debian.as_deref()) {
        Ok(toolchain) if cargo => Status::Ready(toolchain),
        Ok(_) => Status::Missing(missing),
        Err(more) => {
            missing.extend(more);
            Status::Missing(missing)
        }
    }
}

/// Finds the tools, or installs them without asking: the target through rustup if it can, else Debian's packages (as root, or
/// with a `sudo` that needs no password). Says what it does. The error lists the commands to run by hand.
pub fn ready(progress: &mut dyn Progress) -> Result<Toolchain> {
    match inspect() {
        Status::Ready(toolchain) => Ok(toolchain),
        Status::Missing(missing) => install::install(&missing, progress),
    }
}

impl Toolchain {
    /// In a few words, for `maquette doctor`.
    pub fn describe(&self) -> String {
        match self {
            Self::Installed { sysroot } => format!("{TARGET} of the compiler in {}", sysroot.display()),
            Self::FromSource { rustc, .. } => format!(
                "{TARGET} with {} and a standard library built from source",
                rustc.display()
            ),
        }
    }

    /// Prepares a cargo command: which compiler, linker and standard library it uses for guests. `arguments` follow `cargo`.
    pub fn cargo(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new("cargo");
        command.args(arguments);
        // These would replace the flags below, or belong to the program that runs us, if cargo started it.
        for name in [
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
        ] {
            command.env_remove(name);
        }
        for name in [
            "RUSTC_WORKSPACE_WRAPPER",
            "CARGO_MANIFEST_DIR",
            "CARGO_MANIFEST_PATH",
            "__CARGO_FIX_YOLO",
        ] {
            command.env_remove(name);
        }
        if std::env::var_os("CARGO").is_some() {
            // Cargo lets its children find the libraries of its own compiler; another compiler must not.
            command.env_remove("LD_LIBRARY_PATH");
        }
        if let Self::FromSource { rustc, libc, linkers } = self {
            command.env("RUSTC", rustc);
            command.env("RUSTC_BOOTSTRAP", "1");
            command.env("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort");
            let mut flags = OsString::from("-L");
            flags.push(libc);
            // The C library of 2022 lacks what std's threads name. Crates that mention threads link with this; others ignore it.
            if let Some(stub) = stub::library(rustc, &folder::cache()) {
                flags.push(" -Clink-arg=");
                flags.push(stub);
            }
            command.env("CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS", flags);
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = linkers.iter().cloned().chain(std::env::split_paths(&path));
            let joined = std::env::join_paths(folders).map_err(|e| {
                Error::Toolchain(Note::new(
                    "PATH",
                    format!("it cannot be extended: {e}"),
                    "use folders without `:` in their names",
                ))
            })?;
            command.env("PATH", joined);
        }
        Ok(command)
    }
}

fn has_std(sysroot: &Path) -> bool {
    let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let Ok(entries) = std::fs::read_dir(library) else {
        return false;
    };
    entries.flatten().any(|e| {
        let name = e.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libstd-") && name.ends_with(".rlib")
    })
}

/// Debian's compiler and source, with a linker; or what is missing of them.
fn from_source(sysroot: Option<&Path>, version: Option<&str>) -> Result<Toolchain, Vec<String>> {
    let mut missing = Vec::new();
    let rustc = PathBuf::from(DEBIAN_RUSTC);
    match version.map(minor) {
        Some(Some(minor)) if minor >= OLDEST => {}
        Some(_) => missing.push(format!(
            "{DEBIAN_RUSTC} is {}, older than 1.{OLDEST}",
            version.unwrap_or_default()
        )),
        None => missing.push("Debian's compiler is not installed (rustc-web)".to_owned()),
    }
    if !Path::new(DEBIAN_STD).is_file() {
        missing.push("the standard library's source is not installed (rust-web-src)".to_owned());
    }
    if !Path::new(DEBIAN_LIBC).join("libc.a").is_file() {
        missing.push("the C library for WebAssembly is not installed (wasi-libc)".to_owned());
    }
    let linkers = linkers(sysroot);
    if linkers.is_none() {
        missing.push("there is no wasm-component-ld: rustup's toolchains have one".to_owned());
    }
    match linkers {
        Some(linkers) if missing.is_empty() => Ok(Toolchain::FromSource {
            rustc,
            libc: DEBIAN_LIBC.into(),
            linkers,
        }),
        _ => Err(missing),
    }
}

/// The folders of `wasm-component-ld` and `wasm-ld`: of the compiler on `PATH`, or none if both are on `PATH` themselves.
fn linkers(sysroot: Option<&Path>) -> Option<Vec<PathBuf>> {
    let hosts = sysroot.and_then(|s| std::fs::read_dir(s.join("lib/rustlib")).ok());
    for host in hosts.into_iter().flatten().flatten() {
        let tools = host.path().join("bin");
        if tools.join("wasm-component-ld").is_file() && tools.join("gcc-ld/wasm-ld").is_file() {
            return Some(vec![tools.join("gcc-ld"), tools]);
        }
    }
    (process::on_path("wasm-component-ld").is_some() && process::on_path("wasm-ld").is_some()).then(Vec::new)
}

/// The 96 of `rustc 1.96.0 (ac68faa20 2026-05-25)`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("rustc 1.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::progress::Recorder;

    #[test]
    fn the_compilers_version_is_read() {
        assert_eq!(
            minor("rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)"),
            Some(96)
        );
        assert_eq!(minor("rustc 2.0.0"), None);
        assert_eq!(minor(""), None);
    }

    #[test]
    fn a_compiler_without_the_target_is_not_ready() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!has_std(dir.path()));
        let library = dir.path().join("lib/rustlib").join(TARGET).join("lib");
        std::fs::create_dir_all(&library).unwrap();
        assert!(!has_std(dir.path()));
        std::fs::write(library.join("libstd-0123.rlib"), "").unwrap();
        assert!(has_std(dir.path()));
    }

    #[test]
    fn once_ready_it_stays_ready_and_says_nothing() {
        ready(&mut Recorder::default()).unwrap();
        let mut progress = Recorder::default();
        let first = ready(&mut progress).unwrap();
        assert_eq!(inspect(), Status::Ready(first));
        assert!(progress.lines.is_empty() && progress.tasks.is_empty());
    }

    #[test]
    fn flags_meant_for_the_host_do_not_reach_guests() {
        let toolchain = Toolchain::Installed {
            sysroot: "/nowhere".into(),
        };
        let command = toolchain.cargo(&["build"]).unwrap();
        let removed: Vec<_> = command
            .get_envs()
            .filter(|(_, v)| v.is_none())
            .filter_map(|(k, _)| k.to_str())
            .collect();
        assert!(removed.contains(&"RUSTFLAGS") && removed.contains(&"CARGO_ENCODED_RUSTFLAGS"));
    }
}

//! Lists the SDK's sources, so that the binary can make and build models on a machine without this repository.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

/// What a model needs to build: the SDK with its template and derive macros, the op table, the contract.
const ROOTS: [&str; 3] = ["sdk/rust", "host/tensor/ops", "wit"];

/// Folders that are no sources.
const SKIPPED: [&str; 6] = ["target", "tests", "fixtures", "benches", "examples", ".git"];

fn main() -> io::Result<()> {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let repository = manifest_dir.join("../..").canonicalize()?;
    let mut files = vec![PathBuf::from("Cargo.toml")];
    for root in ROOTS {
        collect(&repository, Path::new(root), &mut files)?;
    }
    files.sort();
    let mut list = String::from(
        "/// Paths relative to the repository, and their content.\npub(crate) static FILES: &[(&str, &[u8])] = &[\n",
    );
    for file in &files {
        let absolute = repository.join(file);
        println!("cargo::rerun-if-changed={}", absolute.display());
        writeln!(
            list,
            "    ({:?}, include_bytes!({:?})),",
            file.display().to_string(),
            absolute.display().to_string()
        )
        .map_err(io::Error::other)?;
    }
    list.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("embedded.rs");
    fs::write(out, list)
}

fn collect(repository: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let absolute = repository.join(folder);
    println!("cargo::rerun-if-changed={}", absolute.display());
    for entry in fs::read_dir(&absolute)? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        let kind = entry.file_type()?;
        // The template's own tests and hidden files belong to it.
        let template = path.starts_with("sdk/rust/template");
        let name = entry.file_name();
        if kind.is_dir() {
            if name == "target" || (!template && SKIPPED.iter().any(|s| name == *s)) {
                continue;
            }
            collect(repository, &path, files)?;
        } else if kind.is_file() && name != "Cargo.lock" {
            files.push(path);
        }
    }
    Ok(())
}

//! Building a guest: cargo with the right compiler, linker, flags and target folder; or a component that is there already.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::manifest::Manifest;
use crate::process::{self, Failure, Stream};
use crate::toolchain::{TARGET, Toolchain};
use crate::{Error, Note, Progress, Result, folder};

/// The longest build: the standard library on a slow machine, and a large guest.
const LIMIT: Duration = Duration::from_secs(3600);
/// The most lines of a compiler's complaint that an error repeats.
const COMPLAINT: usize = 200;

/// How to build. The default is what a contributor expects.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The folder of the crate `maquette-sdk` to build against, in place of what a registry has under that name.
    pub sdk: Option<PathBuf>,
    /// Where cargo keeps what it builds. The default is `guests` in `CARGO_TARGET_DIR`, else in the target folder of the workspace that
    /// the guest is part of, else in the user's cache folder: there all guests share one standard library.
    pub target: Option<PathBuf>,
    /// Do not use the network.
    pub offline: bool,
}

/// [`build_with`] the default options.
pub fn build(
    dir: impl AsRef<Path>,
    manifest: &Manifest,
    toolchain: &Toolchain,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    build_with(dir, manifest, toolchain, &Options::default(), progress)
}

/// Builds the guest in `dir` in release mode and returns the component's file. If the manifest names a prebuilt component
/// ([`prebuilt`]), that is it. A compiler's complaints are in the error, as the compiler words them.
pub fn build_with(
    dir: impl AsRef<Path>,
    manifest: &Manifest,
    toolchain: &Toolchain,
    options: &Options,
    progress: &mut dyn Progress,
) -> Result<PathBuf> {
    let dir = dir.as_ref();
    if let Some(component) = prebuilt(dir, manifest)? {
        return Ok(component);
    }
    let guest = find(dir, manifest, toolchain, options)?;
    let target = options.target.clone().unwrap_or_else(|| guest.target.clone());
    folder::create(&target)?;
    let mut arguments = vec![
        "build",
        "--release",
        "--lib",
        "--target",
        TARGET,
        "--package",
        &guest.id,
    ];
    arguments.push("--message-format=json-render-diagnostics");
    let what = format!("building {}", guest.package);
    progress.say(&what);
    let _turn = turn(&target)?;
    let mut again = false;
    loop {
        let mut command = toolchain.cargo(&arguments)?;
        configure(&mut command, dir, options)?;
        command.arg("--target-dir").arg(&target).current_dir(dir);
        progress.begin(&what, None);
        let finished = {
            let progress = std::cell::RefCell::new(&mut *progress);
            process::run(
                &mut command,
                LIMIT,
                |stream, line| {
                    // What cargo says as it goes; what the compiler complains about comes with the error, or below.
                    if stream == Stream::Err && is_status(line) {
                        progress.borrow_mut().say(line.trim_end());
                    }
                },
                || progress.borrow_mut().advance(0),
            )
        };
        progress.end();
        let finished = finished.map_err(|failure| not_run(dir, failure))?;
        if !finished.success() {
            return Err(failed(dir, &finished.err));
        }
        remarks(&finished.err).for_each(|line| progress.say(line));
        let built = component(&finished.out, &guest.manifest).ok_or_else(|| {
            let what = format!("the package `{}` built, but made no component", guest.package);
            let help = "add to its Cargo.toml:\n[lib]\ncrate-type = [\"cdylib\"]";
            Error::Build(Note::new(dir.display(), what, help))
        })?;
        let trusted = again || !built.fresh;
        if let Some(own) = keep(&target, &guest.manifest, &built.path, trusted)? {
            return Ok(own);
        }
        again = true;
    }
}

/// Waits until no other guest is being built into the same folder.
fn turn(target: &Path) -> Result<File> {
    let path = target.join("building.lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    file.lock().map_err(Error::io("lock", &path))?;
    Ok(file)
}

/// What cargo made of a package.
struct Built {
    path: PathBuf,
    /// Cargo found it there, as it believes of this package.
    fresh: bool,
}

/// Copies the component to a place that is this guest's alone. Cargo names a component after its package and nothing else, so
/// that in one target folder those of two packages of one name overwrite each other, and takes the other's for its own: then
/// the component is removed, and there is no copy but a need to build again.
fn keep(target: &Path, manifest: &Path, path: &Path, trusted: bool) -> Result<Option<PathBuf>> {
    let name = path.file_name().unwrap_or_default();
    let owner = path.with_extension("of");
    let this = manifest.to_string_lossy();
    if !trusted && std::fs::read(&owner).ok().as_deref() != Some(this.as_bytes()) {
        let deps = path.with_file_name("deps").join(name);
        for stale in [path, deps.as_path()] {
            match std::fs::remove_file(stale) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", stale)(e)),
                _ => {}
            }
        }
        return Ok(None);
    }
    std::fs::write(&owner, this.as_bytes()).map_err(Error::io("write", &owner))?;
    let place = hex::encode(Sha256::digest(this.as_bytes()));
    let folder = target.join("components").join(&place[..16]);
    folder::create(&folder)?;
    let own = folder.join(name);
    let fresh = folder.join("copying");
    std::fs::copy(path, &fresh).map_err(Error::io("copy", path))?;
    std::fs::rename(&fresh, &own).map_err(Error::io("write", &own))?;
    Ok(Some(own))
}

/// The component that the manifest names as built already, if it names one: `[component] path`.
pub fn prebuilt(dir: impl AsRef<Path>, manifest: &Manifest) -> Result<Option<PathBuf>> {
    let Some(path) = &manifest.component.path else {
        return Ok(None);
    };
    folder::inside(dir.as_ref(), Path::new(path))
        .map(Some)
        .map_err(|error| match error {
            Error::Source(note) => Error::Build(Note::new(
                format!("{path} ([component] path)"),
                note.what,
                "build it first, or remove `path`: cargo builds one then",
            )),
            other => other,
        })
}

/// What cargo knows about the guest.
struct Guest {
    package: String,
    /// Names it even where a dependency has the same name.
    id: String,
    /// Its `Cargo.toml`.
    manifest: PathBuf,
    /// The target folder to use.
    target: PathBuf,
}

fn find(dir: &Path, manifest: &Manifest, toolchain: &Toolchain, options: &Options) -> Result<Guest> {
    let refuse = |what: String, help: &str| Err(Error::Build(Note::new(dir.display(), what, help)));
    let own = dir.join("Cargo.toml");
    // A package that names its component has it from the workspace that it lies in.
    if !own.is_file() && manifest.component.package.is_none() {
        let help =
            "make one with `maquette new`, or name a prebuilt component: [component] path = \"…\" in maquette.toml";
        return refuse("there is no Cargo.toml to build".into(), help);
    }
    let mut command = toolchain.cargo(&["metadata", "--no-deps", "--format-version", "1"])?;
    configure(&mut command, dir, options)?;
    let finished = process::run(command.current_dir(dir), LIMIT, |_, _| (), || ()).map_err(|f| not_run(dir, f))?;
    let described: Option<Value> = finished.out.iter().find_map(|line| serde_json::from_str(line).ok());
    let Some(described) = described.filter(|_| finished.success()) else {
        return Err(failed(dir, &finished.err));
    };

    let own = own.canonicalize().unwrap_or(own);
    let packages: Vec<(String, String, PathBuf)> = described["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|p| {
            Some((
                p["name"].as_str()?.to_owned(),
                p["id"].as_str()?.to_owned(),
                PathBuf::from(p["manifest_path"].as_str()?),
            ))
        })
        .collect();
    let chosen = match &manifest.component.package {
        Some(name) => packages.iter().find(|(n, ..)| n == name),
        None => packages
            .iter()
            .find(|(.., path)| path.canonicalize().is_ok_and(|p| p == own)),
    };
    let Some((package, id, path)) = chosen else {
        let names: Vec<&str> = packages.iter().map(|(name, ..)| name.as_str()).collect();
        return match &manifest.component.package {
            Some(name) => refuse(
                format!("there is no package `{name}`"),
                &format!("the packages there are: {}", names.join(", ")),
            ),
            None => refuse(
                "its Cargo.toml is a workspace, not a package".into(),
                &format!(
                    "choose one in maquette.toml: [component] package = \"…\" ({})",
                    names.join(", ")
                ),
            ),
        };
    };
    let root = described["workspace_root"].as_str().map(PathBuf::from);
    let shared = described["target_directory"].as_str().map(PathBuf::from);
    Ok(Guest {
        package: package.clone(),
        id: id.clone(),
        manifest: path.clone(),
        target: target(dir, root, shared),
    })
}

/// Where to build, if the caller does not say. A folder of its own in whatever target folder there is: host builds of the same
/// crates, by another compiler, would otherwise throw out what guests have built, and the other way round.
fn target(dir: &Path, workspace: Option<PathBuf>, shared: Option<PathBuf>) -> PathBuf {
    // Relative to the current folder, as cargo takes it.
    let set = std::env::var_os("CARGO_TARGET_DIR")
        .filter(|v| !v.is_empty())
        .and_then(|v| std::path::absolute(v).ok());
    if let Some(set) = set {
        return set.join("guests");
    }
    let alone = match (&workspace, dir.canonicalize()) {
        (Some(root), Ok(dir)) => root.canonicalize().is_ok_and(|root| root == dir),
        _ => true,
    };
    match shared {
        Some(shared) if !alone => shared.join("guests"),
        _ => folder::cache().join("guests"),
    }
}

/// What the options mean to cargo.
fn configure(command: &mut std::process::Command, dir: &Path, options: &Options) -> Result<()> {
    if options.offline {
        command.arg("--offline");
    }
    if let Some(sdk) = &options.sdk {
        let folder = sdk
            .canonicalize()
            .ok()
            .filter(|path| path.join("Cargo.toml").is_file())
            .ok_or_else(|| {
                let what = format!("there is no SDK in {}", sdk.display());
                Error::Build(Note::new(
                    dir.display(),
                    what,
                    "name the folder of the crate maquette-sdk",
                ))
            })?;
        // A TOML string is spelled as a JSON string.
        let path = Value::from(folder.to_string_lossy().into_owned());
        command
            .arg("--config")
            .arg(format!("patch.crates-io.maquette-sdk.path={path}"));
    }
    Ok(())
}

/// The component among cargo's messages.
fn component(messages: &[String], manifest: &Path) -> Option<Built> {
    let artifacts = messages
        .iter()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    artifacts
        .filter(|m| {
            m["reason"] == "compiler-artifact" && m["manifest_path"].as_str().is_some_and(|p| Path::new(p) == manifest)
        })
        .filter_map(|m| {
            let files = m["filenames"].as_array()?.iter().filter_map(Value::as_str);
            let path = files
                .map(PathBuf::from)
                .rfind(|path| path.extension().is_some_and(|e| e == "wasm"))?;
            let fresh = m["fresh"] == true;
            Some(Built { path, fresh })
        })
        .next_back()
}

/// Whether a line of cargo's is about what it is doing: its verb ends at column 12.
fn is_status(line: &str) -> bool {
    let verb = line.trim_start();
    let indent = line.len() - verb.len();
    let word = verb.split(' ').next().unwrap_or_default();
    indent > 0 && indent + word.len() == 12 && word.starts_with(|c: char| c.is_ascii_uppercase())
}

/// What the compiler remarked, without cargo's account of what it is doing.
fn remarks(lines: &[String]) -> impl Iterator<Item = &str> {
    let mut about_patch = false;
    lines.iter().map(String::as_str).filter(move |line| {
        if line.starts_with("warning") || line.starts_with("error") {
            // Cargo resolves the standard library on its own and finds no use for the SDK there.
            about_patch = line.starts_with("warning: patch `maquette-sdk ");
        }
        !about_patch && !is_status(line)
    })
}

fn not_run(dir: &Path, failure: Failure) -> Error {
    Error::Build(match failure {
        Failure::Start(e) => Note::new(
            dir.display(),
            format!("cargo cannot be run: {e}"),
            "install Rust: https://rustup.rs",
        ),
        Failure::Timeout(limit) => Note::new(
            dir.display(),
            format!("the build took longer than {} minutes", limit.as_secs() / 60),
            "build it by hand once",
        ),
    })
}

fn failed(dir: &Path, complaint: &[String]) -> Error {
    let told: Vec<&str> = remarks(complaint).collect();
    let text = told[..told.len().min(COMPLAINT)].join("\n");
    let more = if told.len() > COMPLAINT {
        format!("\n… and {} lines more", told.len() - COMPLAINT)
    } else {
        String::new()
    };
    let help = if text.contains("maquette-sdk")
        && (text.contains("no matching package") || text.contains("failed to select"))
    {
        "build it with `maquette build`, which brings the SDK along"
    } else if text.contains("undefined symbol: pthread_") {
        "a dependency starts threads: switch that feature off (rayon's, mostly)"
    } else if text.contains("Could not resolve host") || text.contains("failed to download") {
        "cargo could not reach its registry: check the network and run this again"
    } else {
        "correct what the compiler names"
    };
    Error::Build(Note::new(
        dir.display(),
        format!("the guest does not build:\n{}{more}\n", text.trim_end()),
        help,
    ))
}

#[cfg(test)]
mod tests;

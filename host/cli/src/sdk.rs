//! The SDK's sources, which this binary carries, and their place on this machine.

use std::fs;
use std::path::{Component, Path, PathBuf};

use maquette_package::{Digest, Hasher, build};
use toml::{Table, Value};

use crate::failure::{Failure, Result};
use crate::paths;

mod embedded {
    #![allow(missing_docs, reason = "generated")]
    include!(concat!(env!("OUT_DIR"), "/embedded.rs"));
}

/// Where the template lies among the embedded files.
const TEMPLATE: &str = "sdk/rust/template/";

/// The workspace's manifest among the embedded files: the crates inherit keys from it.
const WORKSPACE: &str = "Cargo.toml";

/// The template's files, relative to the model's folder.
pub(crate) fn template() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    embedded::FILES
        .iter()
        .filter_map(|(path, bytes)| Some((path.strip_prefix(TEMPLATE)?, *bytes)))
}

/// The contract's files: their names, and their text.
pub(crate) fn contract() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    embedded::FILES
        .iter()
        .filter_map(|(path, bytes)| Some((path.strip_prefix("wit/")?, *bytes)))
}

/// The SDK's crate on this machine, unpacked where it is not yet. Its folder is named by its content, so versions of this binary
/// stand side by side and none sees another's.
pub(crate) fn unpacked() -> Result<PathBuf> {
    unpack_into(&paths::cache().join("sdk"))
}

fn unpack_into(sdks: &Path) -> Result<PathBuf> {
    let home = sdks.join(&key().to_string()[..16]);
    let crate_dir = home.join("sdk/rust");
    if crate_dir.join("Cargo.toml").is_file() {
        return Ok(crate_dir);
    }
    paths::make_private(sdks)?;
    let partial = tempfile::Builder::new()
        .prefix(".partial-")
        .tempdir_in(sdks)
        .map_err(|e| Failure::file("make a folder in", sdks, &e))?;
    for (path, bytes) in sources() {
        write(partial.path(), path, bytes)?;
    }
    write(partial.path(), WORKSPACE, workspace()?.as_bytes())?;
    match fs::rename(partial.path(), &home) {
        Ok(()) => {
            // It has moved away: there is nothing left to remove.
            let _ = partial.keep();
            Ok(crate_dir)
        }
        // Another process was quicker.
        Err(_) if crate_dir.join("Cargo.toml").is_file() => Ok(crate_dir),
        Err(e) => Err(Failure::file("make the folder", &home, &e)),
    }
}

fn sources() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    let files = embedded::FILES
        .iter()
        .filter(|(path, _)| !path.starts_with(TEMPLATE) && *path != WORKSPACE);
    files.map(|(path, bytes)| (*path, *bytes))
}

/// Names the content.
fn key() -> Digest {
    let mut hasher = Hasher::default();
    for (path, bytes) in embedded::FILES {
        hasher.update(path.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hasher.finish()
}

/// Writes one file below `folder`, and nowhere else.
pub(crate) fn write(folder: &Path, relative: &str, bytes: &[u8]) -> Result<()> {
    let relative = Path::new(relative);
    debug_assert!(relative.components().all(|c| matches!(c, Component::Normal(_))));
    let path = folder.join(relative);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| Failure::file("make the folder", parent, &e))?;
    }
    fs::write(&path, bytes).map_err(|e| Failure::file("write", &path, &e))
}

/// The workspace's manifest with what the unpacked crates inherit from it, and with them as its only members.
fn workspace() -> Result<String> {
    let broken = |why: &str| Failure::environment(format!("the SDK inside this binary is damaged: {why}"));
    let text = embedded::FILES
        .iter()
        .find(|(path, _)| *path == WORKSPACE)
        .map(|(_, bytes)| *bytes);
    let text = std::str::from_utf8(text.unwrap_or_default()).map_err(|_| broken("its workspace is not UTF-8"))?;
    let whole: Table = text.parse().map_err(|_| broken("its workspace does not parse"))?;
    let old = whole
        .get("workspace")
        .and_then(Value::as_table)
        .ok_or_else(|| broken("it has no workspace"))?;
    let there = |folder: &str| {
        embedded::FILES
            .iter()
            .any(|(path, _)| *path == format!("{folder}/Cargo.toml"))
    };

    let mut new = Table::new();
    for key in ["resolver", "package", "lints"] {
        if let Some(value) = old.get(key) {
            new.insert(key.to_owned(), value.clone());
        }
    }
    for key in ["members", "exclude"] {
        let kept = old.get(key).and_then(Value::as_array).into_iter().flatten();
        let kept: Vec<Value> = kept.filter(|v| v.as_str().is_some_and(there)).cloned().collect();
        new.insert(key.to_owned(), Value::Array(kept));
    }
    if let Some(dependencies) = old.get("dependencies").and_then(Value::as_table) {
        let here = |value: &Value| value.get("path").and_then(Value::as_str).is_none_or(there);
        let kept: Table = dependencies
            .iter()
            .filter(|(_, v)| here(v))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        new.insert("dependencies".to_owned(), Value::Table(kept));
    }
    let mut root = Table::new();
    root.insert("workspace".to_owned(), Value::Table(new));
    Ok(root.to_string())
}

/// How to build the model in `dir`: against the SDK of this binary, unless its `Cargo.toml` says where another one is. A patch
/// that nothing uses would be noted in the model's `Cargo.lock`, and one that is given twice is one that nothing uses.
pub(crate) fn build_options(dir: &Path) -> Result<build::Options> {
    let mut options = build::Options::default();
    if asks_a_registry(dir) {
        let sdk = unpacked()?;
        if !is_patched(dir, &sdk)? {
            options.sdk = Some(sdk);
        }
    }
    Ok(options)
}

/// The model's own file that tells cargo of the SDK on this machine; kept out of version control, for it names a path.
pub(crate) const CARGO_CONFIG: &str = ".cargo/config.toml";

/// How that file begins if it is ours.
const OURS: &str = "# Written by maquette so that editors and plain cargo find the SDK on this machine.\n";

/// Whether the model's own cargo settings say where the SDK is. Those that this program wrote are brought up to date.
fn is_patched(dir: &Path, sdk: &Path) -> Result<bool> {
    let Ok(text) = fs::read_to_string(dir.join(CARGO_CONFIG)) else {
        return Ok(false);
    };
    let current = cargo_config(sdk);
    if text.starts_with(OURS) && text != current {
        write(dir, CARGO_CONFIG, current.as_bytes())?;
        return Ok(true);
    }
    let table: Table = text.parse().unwrap_or_default();
    let patch = table.get("patch").and_then(|p| p.get("crates-io")?.get("maquette-sdk"));
    Ok(patch.is_some())
}

/// The text of [`CARGO_CONFIG`].
pub(crate) fn cargo_config(sdk: &Path) -> String {
    let path = Value::String(sdk.display().to_string());
    format!("{OURS}[patch.crates-io]\nmaquette-sdk = {{ path = {path} }}\n")
}

/// Whether a model depends on the SDK by its version alone. A manifest that does not read is cargo's to complain about.
fn asks_a_registry(dir: &Path) -> bool {
    let read = |dir: &Path| -> Option<Table> { fs::read_to_string(dir.join("Cargo.toml")).ok()?.parse().ok() };
    let Some(manifest) = read(dir) else { return false };
    let Some(dependency) = manifest.get("dependencies").and_then(|d| d.get("maquette-sdk")) else {
        return false;
    };
    if dependency.get("workspace").and_then(Value::as_bool) != Some(true) {
        return !is_elsewhere(dependency);
    }
    let Ok(dir) = dir.canonicalize() else { return false };
    let workspace = dir
        .ancestors()
        .filter_map(read)
        .find_map(|m| m.get("workspace").cloned());
    let inherited = workspace
        .as_ref()
        .and_then(|w| w.get("dependencies")?.get("maquette-sdk"));
    inherited.is_some_and(|dependency| !is_elsewhere(dependency))
}

fn is_elsewhere(dependency: &Value) -> bool {
    dependency.get("path").is_some() || dependency.get("git").is_some()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_sdk_unpacks_once_into_a_workspace_that_cargo_reads() {
        let folder = tempfile::tempdir().unwrap();
        let sdk = unpack_into(folder.path()).unwrap();
        assert!(sdk.join("Cargo.toml").is_file() && sdk.join("src/lib.rs").is_file());
        let home = sdk.join("../..");
        assert!(home.join("wit/world.wit").is_file() && home.join("host/tensor/ops/src/lib.rs").is_file());
        assert!(!sdk.join("template").exists() && !sdk.join("target").exists());
        let read = std::process::Command::new("cargo")
            .args(["metadata", "--no-deps", "--format-version=1", "--offline"])
            .current_dir(&home)
            .output()
            .unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        let read = String::from_utf8(read.stdout).unwrap();
        assert!(read.contains("\"name\":\"maquette-ops\""), "{read}");
        assert_eq!(unpack_into(folder.path()).unwrap(), sdk);
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
        assert_eq!(left.len(), 1, "nothing partial is left");
    }

    #[test]
    fn the_workspace_names_no_crate_that_is_not_there() {
        let table: Table = workspace().unwrap().parse().unwrap();
        let workspace = table["workspace"].as_table().unwrap();
        let members = workspace["members"].as_array().unwrap();
        assert!(members.contains(&Value::from("host/tensor/ops")), "{members:?}");
        assert!(!members.contains(&Value::from("host/server")), "{members:?}");
        let dependencies = workspace["dependencies"].as_table().unwrap();
        assert!(dependencies.contains_key("sha2") && !dependencies.contains_key("maquette-server"));
    }

    #[test]
    fn the_sdk_is_patched_in_only_where_a_registry_would_be_asked() {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        fs::create_dir(&model).unwrap();
        let asks = |dependency: &str| {
            fs::write(
                model.join("Cargo.toml"),
                format!("[dependencies]\nmaquette-sdk = {dependency}\n"),
            )
            .unwrap();
            asks_a_registry(&model)
        };
        assert!(asks("\"0.1\"") && asks("{ version = \"0.1\", features = [] }"));
        assert!(!asks("{ path = \"../sdk\" }"));
        let workspace = |text: &str| fs::write(folder.path().join("Cargo.toml"), text).unwrap();
        workspace("[workspace.dependencies]\nmaquette-sdk = \"0.1\"\n");
        assert!(asks("{ workspace = true }"));
        workspace("[workspace.dependencies]\nmaquette-sdk = { path = \"sdk\" }\n");
        assert!(!asks("{ workspace = true }"));
        assert!(!asks_a_registry(&folder.path().join("none")));
    }

    #[test]
    fn a_models_own_cargo_settings_follow_this_binary_and_are_never_doubled() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (Path::new("/old/sdk"), Path::new("/new/sdk"));
        assert!(!is_patched(folder.path(), new).unwrap());
        write(folder.path(), CARGO_CONFIG, cargo_config(old).as_bytes()).unwrap();
        assert!(is_patched(folder.path(), new).unwrap());
        let read = || fs::read_to_string(folder.path().join(CARGO_CONFIG)).unwrap();
        assert_eq!(read(), cargo_config(new));
        let theirs = "[patch.crates-io]\nmaquette-sdk = { path = \"/mine\" }\n";
        write(folder.path(), CARGO_CONFIG, theirs.as_bytes()).unwrap();
        assert!(is_patched(folder.path(), new).unwrap());
        assert_eq!(read(), theirs);
        write(folder.path(), CARGO_CONFIG, b"[build]\njobs = 1\n").unwrap();
        assert!(!is_patched(folder.path(), new).unwrap());
    }

    #[test]
    fn a_patch_quotes_whatever_path_there_is() {
        let text = cargo_config(Path::new(r#"/home/a "b"/c\d"#));
        let table: Table = text.parse().unwrap();
        assert_eq!(
            table["patch"]["crates-io"]["maquette-sdk"]["path"].as_str(),
            Some(r#"/home/a "b"/c\d"#)
        );
    }
}

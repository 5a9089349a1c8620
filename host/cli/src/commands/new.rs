//! `maquette new`: a model's folder from the template, ready to be tested.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::failure::{Failure, Result};
use crate::sdk;
use crate::ui::Ui;

/// What the template writes where the model's name goes.
const NAME: &str = "{{name}}";

const EXAMPLES: &str = "\
Examples:
  maquette new my-model && cd my-model && maquette test
  maquette new my-model --dir ~/models/first

The folder has a model in about 25 lines, a maquette.toml, a case and a model card. The SDK comes with this binary.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's name: a-z, 0-9, `-` and `_`.
    name: String,
    /// Where to make it; else a folder of that name.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Makes the folder.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    check_name(&args.name)?;
    let dir = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let sdk = sdk::unpacked()?;
    let files = make(&dir, &args.name, &sdk)?;
    for file in &files {
        ui.step("wrote", dir.join(file).display());
    }
    let document = json!({"name": args.name, "dir": dir, "files": files});
    ui.result(&document, |ui| {
        format!(
            "{} is in {}. Next:\n  cd {} && maquette test\n",
            ui.strong(&args.name),
            dir.display(),
            dir.display()
        )
    })
}

/// A name that is a model's and a cargo package's.
fn check_name(name: &str) -> Result<()> {
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
    let valid =
        maquette_package::version::valid_name(name) && plain && name.starts_with(|c: char| c.is_ascii_lowercase());
    // The library that is built is called like the model; these names are taken.
    if valid && !["core", "std", "alloc", "test", "proc-macro", "maquette-sdk"].contains(&name) {
        return Ok(());
    }
    Err(Failure::usage(format!("`{name}` cannot be a model's name"))
        .help("use up to 64 characters of a-z, 0-9, `-` and `_`, starting with a letter, such as my-model"))
}

/// Writes the template; returns the files written.
fn make(dir: &Path, name: &str, sdk: &Path) -> Result<Vec<String>> {
    if dir.exists() {
        let empty = std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none());
        if !empty {
            return Err(Failure::usage("there is something already")
                .at(dir.display())
                .help("choose another folder with --dir"));
        }
    }
    let mut written = Vec::new();
    let mut ignored = String::new();
    for (path, bytes) in sdk::template() {
        let filled = match std::str::from_utf8(bytes) {
            Ok(text) => text.replace(NAME, name).into_bytes(),
            Err(_) => bytes.to_vec(),
        };
        if path == ".gitignore" {
            ignored = String::from_utf8_lossy(&filled).into_owned();
            continue;
        }
        sdk::write(dir, path, &filled)?;
        written.push(path.to_owned());
    }
    for line in ["/target", "/.cargo/config.toml"] {
        if !ignored.lines().any(|l| l.trim() == line) {
            if !ignored.is_empty() && !ignored.ends_with('\n') {
                ignored.push('\n');
            }
            ignored.push_str(line);
            ignored.push('\n');
        }
    }
    sdk::write(dir, ".gitignore", ignored.as_bytes())?;
    sdk::write(dir, sdk::CARGO_CONFIG, sdk::cargo_config(sdk).as_bytes())?;
    written.extend([".gitignore".to_owned(), sdk::CARGO_CONFIG.to_owned()]);
    written.sort();
    Ok(written)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_those_that_cargo_and_a_url_take() {
        for good in ["my-model", "m", "a_b2"] {
            check_name(good).unwrap();
        }
        for bad in ["", "My", "2fast", "a.b", "a/b", "-a", "std", "ä", &"x".repeat(65)] {
            assert_eq!(check_name(bad).unwrap_err().exit as i32, 2, "{bad}");
        }
    }

    #[test]
    fn the_folder_has_the_name_everywhere_and_keeps_paths_out_of_version_control() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("m");
        let files = make(&dir, "my-model", Path::new("/opt/sdk")).unwrap();
        for file in [
            "Cargo.toml",
            "maquette.toml",
            "src/lib.rs",
            ".gitignore",
            ".cargo/config.toml",
        ] {
            assert!(files.iter().any(|f| f == file), "{file} of {files:?}");
        }
        for file in &files {
            let text = std::fs::read_to_string(dir.join(file)).unwrap();
            assert!(!text.contains("{{"), "{file}: {text}");
        }
        let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
        assert!(read("maquette.toml").contains("name = \"my-model\""));
        assert!(read(".cargo/config.toml").contains("maquette-sdk = { path = \"/opt/sdk\" }"));
        assert!(read(".gitignore").lines().any(|l| l == "/.cargo/config.toml"));
        assert!(files.iter().any(|f| f.starts_with("cases/")), "a case: {files:?}");
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mine"), "x").unwrap();
        let failure = make(folder.path(), "m", Path::new("/opt/sdk")).unwrap_err();
        assert_eq!(failure.exit as i32, 2);
        assert!(!folder.path().join("Cargo.toml").exists());
    }
}

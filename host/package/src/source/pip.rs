//! Python packages, through pip: its configuration, credentials and mirrors hold.

use std::path::Path;
use std::process::Command;

use super::client;
use crate::process::{Failure, Finished};
use crate::{Error, Note, Progress, Result};

/// Brings the archive of `name==version` into the folder `into`: a wheel if there is one for this machine, else the source archive,
/// for which pip runs the package's own build script to read its metadata.
pub(super) fn download(shown: &str, name: &str, version: &str, into: &Path, progress: &mut dyn Progress) -> Result<()> {
    let finished = pip(shown, name, version, into, &["--only-binary", ":all:"], progress)?;
    if finished.success() {
        return Ok(());
    }
    let complaint = finished.complaint(6);
    if !complaint.contains("No matching distribution") {
        return Err(failed(shown, name, version, &complaint));
    }
    progress.say(&format!(
        "{name} {version} has no wheel for this machine: asking pip for its source archive"
    ));
    let source = pip(shown, name, version, into, &["--no-binary", name], progress)?;
    if source.success() {
        Ok(())
    } else {
        Err(failed(shown, name, version, &source.complaint(6)))
    }
}

fn pip(
    shown: &str,
    name: &str,
    version: &str,
    into: &Path,
    kind: &[&str],
    progress: &mut dyn Progress,
) -> Result<Finished> {
    let mut command = Command::new("python3");
    command.args([
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-input",
        "--disable-pip-version-check",
    ]);
    command
        .args(["--progress-bar", "off", "--dest"])
        .arg(into)
        .args(kind)
        .arg(format!("{name}=={version}"));
    let work = into.parent().unwrap_or(into);
    // Not the model's folder: `python -m` would load modules from it.
    command.current_dir(work);
    let what = format!("fetching {name} {version} with pip");
    client::run(&mut command, &what, work, download_size, progress).map_err(|failure| match failure {
        Failure::Start(e) => {
            let help = "install Python with pip (Debian: apt-get install python3-pip)";
            Error::Source(Note::new(shown, format!("python3 cannot be run: {e}"), help))
        }
        Failure::Timeout(limit) => {
            let what = format!("pip did not end within {} hours", limit.as_secs() / 3600);
            Error::Source(Note::new(shown, what, "check the network and run this again"))
        }
    })
}

fn failed(shown: &str, name: &str, version: &str, complaint: &str) -> Error {
    let help = if complaint.contains("No module named pip") {
        "install pip (Debian: apt-get install python3-pip, elsewhere: python3 -m ensurepip)".to_owned()
    } else if complaint.contains("No matching distribution") || complaint.contains("from versions") {
        format!("check the name and the version: `python3 -m pip download --no-deps {name}=={version}` must work")
    } else {
        format!("make `python3 -m pip download --no-deps {name}=={version}` work; its settings are those of pip")
    };
    Error::Source(Note::new(
        shown,
        format!("pip could not fetch {name} {version}:\n{complaint}\n"),
        help,
    ))
}

/// Reads `  Downloading six-1.16.0-py2.py3-none-any.whl (11 kB)`.
fn download_size(line: &str) -> Option<u64> {
    let rest = line.trim_start().strip_prefix("Downloading ")?;
    let (number, unit) = rest.trim_end().strip_suffix(')')?.rsplit_once('(')?.1.split_once(' ')?;
    let factor = match unit {
        "bytes" => 1.0,
        "kB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return None,
    };
    number
        .parse::<f64>()
        .ok()
        .filter(|n| (0.0..1e6).contains(n))
        .map(|n| (n * factor) as u64)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::Silent;

    #[test]
    fn the_size_of_a_download_is_read_from_pips_line() {
        assert_eq!(
            download_size("  Downloading six-1.16.0-py2.py3-none-any.whl (11 kB)"),
            Some(11_000)
        );
        assert_eq!(download_size("Downloading a.whl (83.5 MB)"), Some(83_500_000));
        assert_eq!(download_size("Downloading a.whl.metadata (1 bytes)"), Some(1));
        for other in [
            "Collecting six==1.16.0",
            "Downloading x",
            "Downloading x (y kB)",
            "Downloading x (-1 kB)",
            "",
        ] {
            assert_eq!(download_size(other), None);
        }
    }

    #[test]
    fn a_package_that_does_not_exist_is_named_with_the_command_to_try() {
        let dir = tempfile::tempdir().unwrap();
        let into = dir.path().join("archive");
        std::fs::create_dir(&into).unwrap();
        let shown = "pip:six==0.0.0.dev999/six.py";
        let error = download(shown, "six", "0.0.0.dev999", &into, &mut Silent)
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with(&format!("{shown}: pip could not fetch six 0.0.0.dev999:\n")),
            "{error}"
        );
        assert!(
            error.contains("`python3 -m pip download --no-deps six==0.0.0.dev999` must work"),
            "{error}"
        );
    }
}

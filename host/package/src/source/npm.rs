//! npm packages, through npm: its configuration, credentials and mirrors hold.

use std::path::Path;
use std::process::Command;

use super::client;
use crate::process::Failure;
use crate::{Error, Note, Progress, Result};

/// Brings the archive of `name@version` into the folder `into`.
pub(super) fn download(shown: &str, name: &str, version: &str, into: &Path, progress: &mut dyn Progress) -> Result<()> {
    let work = into.parent().unwrap_or(into);
    let mut command = Command::new("npm");
    command.args([
        "pack",
        "--ignore-scripts",
        "--no-fund",
        "--no-audit",
        "--no-update-notifier",
        "--pack-destination",
    ]);
    command
        .arg(into)
        .arg("--")
        .arg(format!("{name}@{version}"))
        .current_dir(work);
    let what = format!("fetching {name} {version} with npm");
    let finished = client::run(&mut command, &what, work, |_| None, progress).map_err(|failure| match failure {
        Failure::Start(e) => {
            let help = "install Node.js with npm (Debian: apt-get install npm)";
            Error::Source(Note::new(shown, format!("npm cannot be run: {e}"), help))
        }
        Failure::Timeout(limit) => {
            let what = format!("npm did not end within {} hours", limit.as_secs() / 3600);
            Error::Source(Note::new(shown, what, "check the network and run this again"))
        }
    })?;
    if finished.success() {
        return Ok(());
    }
    let complaint = finished.complaint(12);
    let lines: Vec<&str> = complaint
        .lines()
        .filter(|l| !l.contains("A complete log of this run"))
        .collect();
    let help = if complaint.contains("E404") || complaint.contains("ETARGET") {
        format!("check the name and the version: `npm view {name}@{version}` must know it")
    } else {
        format!("make `npm pack {name}@{version}` work; its settings are those of npm")
    };
    Err(Error::Source(Note::new(
        shown,
        format!("npm could not fetch {name} {version}:\n{}\n", lines.join("\n")),
        help,
    )))
}

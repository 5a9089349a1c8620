//! Installing the tools: rustup's target, else Debian's packages. What to do is decided first, from a few facts; then it is done.

use std::process::Command;
use std::time::Duration;

use super::{Status, TARGET, Toolchain, inspect};
use crate::process::{self, Failure};
use crate::{Error, Note, Progress, Result};

const PACKAGES: [&str; 3] = ["rustc-web", "rust-web-src", "wasi-libc"];
/// Long enough for a slow line, and short enough that nobody waits for a download that never comes.
const LIMIT: Duration = Duration::from_secs(1800);

/// What to run by hand where this program may not: one of the two lines.
pub const COMMANDS: [&str; 2] = [
    "rustup target add wasm32-wasip2",
    "sudo apt-get update && sudo apt-get install -y --no-install-recommends rustc-web rust-web-src wasi-libc",
];

/// What the machine allows.
#[derive(Clone, Copy, Debug)]
struct Facts {
    rustup: bool,
    apt: bool,
    root: bool,
    /// `sudo` runs commands without asking for a password.
    sudo: bool,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    say: &'static str,
    command: Vec<&'static str>,
}

fn facts() -> Facts {
    let root = rustix::process::geteuid().is_root();
    Facts {
        rustup: process::on_path("rustup").is_some(),
        apt: process::on_path("apt-get").is_some(),
        root,
        sudo: !root
            && Command::new("sudo")
                .args(["-n", "true"])
                .output()
                .is_ok_and(|o| o.status.success()),
    }
}

/// The ways to try, in order; each is a list of commands that must all succeed.
fn plan(facts: Facts) -> Vec<Vec<Step>> {
    let mut ways = Vec::new();
    if facts.rustup {
        ways.push(vec![Step {
            say: "adding the target wasm32-wasip2 to the compiler (rustup target add)",
            command: vec!["rustup", "target", "add", TARGET],
        }]);
    }
    if facts.apt && (facts.root || facts.sudo) {
        let step = |say, arguments: &[&'static str]| {
            let sudo: &[&str] = if facts.root { &[] } else { &["sudo", "-n"] };
            let apt = ["apt-get", "-o", "DPkg::Lock::Timeout=300"];
            Step {
                say,
                command: [sudo, &apt, arguments].concat(),
            }
        };
        let install = [&["install", "-y", "--no-install-recommends"][..], &PACKAGES].concat();
        ways.push(vec![
            step("reading the distribution's package lists (apt-get update)", &["update"]),
            step(
                "installing rustc-web, rust-web-src and wasi-libc (apt-get install)",
                &install,
            ),
        ]);
    }
    ways
}

pub(super) fn install(missing: &[String], progress: &mut dyn Progress) -> Result<Toolchain> {
    progress.say(&format!(
        "models are built for {TARGET}, which is not set up yet: {}",
        missing.join("; ")
    ));
    let mut failures = Vec::new();
    for way in plan(facts()) {
        match carry_out(&way, progress) {
            Ok(()) => match inspect() {
                Status::Ready(toolchain) => {
                    progress.say(&format!("ready: {}", toolchain.describe()));
                    return Ok(toolchain);
                }
                Status::Missing(still) => failures.push(format!("still missing: {}", still.join("; "))),
            },
            Err(why) => {
                progress.say(&why);
                failures.push(why);
            }
        }
    }
    Err(Error::Toolchain(explain(missing, &failures)))
}

fn carry_out(way: &[Step], progress: &mut dyn Progress) -> Result<(), String> {
    for step in way {
        progress.say(step.say);
        progress.begin(step.say, None);
        let finished = run(&step.command);
        progress.end();
        let shown = step.command.join(" ");
        match finished {
            Ok(finished) if finished.success() => {}
            Ok(finished) => {
                return Err(format!(
                    "`{shown}` failed: {}",
                    finished.complaint(3).replace('\n', " / ")
                ));
            }
            Err(Failure::Start(e)) => return Err(format!("`{shown}` cannot be run: {e}")),
            Err(Failure::Timeout(limit)) => return Err(format!("`{shown}` did not end within {} s", limit.as_secs())),
        }
    }
    Ok(())
}

fn run(command: &[&str]) -> Result<process::Finished, Failure> {
    let (program, arguments) = command.split_first().unwrap_or((&"true", &[]));
    let mut command = Command::new(program);
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
    // Their last lines are told to the user: let them be reasons, not a backtrace.
    command.env("RUST_BACKTRACE", "0");
    process::run(&mut command, LIMIT, |_, _| (), || ())
}

fn explain(missing: &[String], failures: &[String]) -> Note {
    let tried = if failures.is_empty() {
        "this program may not install them here".to_owned()
    } else {
        failures.join("\n")
    };
    let what = format!(
        "the tools that build models for {TARGET} are missing:\n  {}\n{tried}\n",
        missing.join("\n  ")
    );
    let help = format!(
        "run one of these, then try again:\n  {}\n  {}",
        COMMANDS[0], COMMANDS[1]
    );
    Note::new("", what, help)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn rustup_comes_first_then_the_distribution_as_far_as_the_user_may() {
        let programs = |rustup, apt, root, sudo| {
            let ways = plan(Facts {
                rustup,
                apt,
                root,
                sudo,
            });
            ways.iter()
                .map(|way| way.iter().map(|s| s.command[0]).collect::<Vec<_>>().join(","))
                .collect::<Vec<_>>()
                .join(" | ")
        };
        assert_eq!(programs(true, true, true, false), "rustup | apt-get,apt-get");
        assert_eq!(programs(true, true, false, true), "rustup | sudo,sudo");
        assert_eq!(programs(true, true, false, false), "rustup");
        assert_eq!(programs(false, true, true, false), "apt-get,apt-get");
        assert_eq!(programs(true, false, true, true), "rustup");
        assert_eq!(programs(false, false, true, true), "");
    }

    #[test]
    fn sudo_never_asks_and_apt_never_asks() {
        let ways = plan(Facts {
            rustup: false,
            apt: true,
            root: false,
            sudo: true,
        });
        let install = ways[0][1].command.join(" ");
        assert!(install.starts_with("sudo -n apt-get "), "{install}");
        assert!(
            install.ends_with("install -y --no-install-recommends rustc-web rust-web-src wasi-libc"),
            "{install}"
        );
    }

    #[test]
    fn where_nothing_can_be_done_the_error_says_what_to_run() {
        let note = explain(&["rustc is not on PATH".into()], &[]).to_string();
        assert!(
            note.contains("rustc is not on PATH") && note.contains("may not install them here"),
            "{note}"
        );
        for command in COMMANDS {
            assert!(note.contains(command), "{note}");
        }
        let note = explain(&["x".into()], &["`rustup target add` failed: no network".into()]).to_string();
        assert!(note.contains("no network"), "{note}");
    }

    #[test]
    fn a_failed_step_ends_its_way_and_tells_why() {
        let step = |script| Step {
            say: "trying",
            command: vec!["sh", "-c", script],
        };
        let mut progress = crate::progress::Recorder::default();
        let error = carry_out(&[step("echo broken >&2; exit 1"), step("exit 0")], &mut progress).unwrap_err();
        assert_eq!(error, "`sh -c echo broken >&2; exit 1` failed: broken");
        assert_eq!((progress.tasks.len(), progress.ended), (1, 1));
        carry_out(&[step("exit 0"), step("exit 0")], &mut progress).unwrap();
        let error = carry_out(&[step("echo backtrace: $RUST_BACKTRACE; exit 1")], &mut progress).unwrap_err();
        assert!(error.ends_with("failed: backtrace: 0"), "{error}");
    }
}

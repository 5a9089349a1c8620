//! The official clients, installed once by their package names, and the environment in which a script of theirs runs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{repository, succeed};

/// What a script needs.
#[derive(Clone, Copy)]
pub(crate) enum Kit {
    /// `replicate` 1.0.7 for Python.
    Python1,
    /// `replicate` 2.0.0b4 for Python.
    Python2,
    /// `replicate` 1.4.0 for JavaScript.
    JavaScript,
    /// What the proxy that speaks TLS is made of.
    Proxy,
    /// Schemathesis, which makes requests of every kind out of an OpenAPI document.
    Schemathesis,
}

impl Kit {
    /// The folder's name, and the packages that are installed in it.
    fn packages(self) -> (&'static str, &'static str) {
        match self {
            Self::Python1 => ("python1", "replicate==1.0.7"),
            Self::Python2 => ("python2", "replicate==2.0.0b4"),
            Self::JavaScript => ("javascript", "replicate@1.4.0"),
            Self::Proxy => ("proxy", "trustme==1.2.1"),
            Self::Schemathesis => ("schemathesis", "schemathesis==4.32.0"),
        }
    }

    /// A command that runs a script of `tests/clients` with what is installed.
    pub(crate) fn script(self, name: &str) -> Command {
        let mut command = self.program(match self {
            Self::JavaScript => "node",
            _ => "python3",
        });
        command.arg(repository().join("tests/clients").join(name));
        command
    }

    /// A command that runs one of the programs that are installed.
    pub(crate) fn program(self, name: &str) -> Command {
        let folder = self.install();
        let mut command = match self {
            Self::JavaScript => Command::new(name),
            _ => Command::new(folder.join("bin").join(name)),
        };
        command
            .env("MAQUETTE_CLIENT", &folder)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONIOENCODING", "utf-8");
        // A proxy of the machine's would stand between a script and its server.
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
    }

    /// The folder in which it is installed. Whoever comes first installs it, beside its place, and puts it there when it is whole.
    pub(crate) fn install(self) -> PathBuf {
        let (name, packages) = self.packages();
        let clients = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients");
        std::fs::create_dir_all(&clients).unwrap();
        let lock = File::create(clients.join(format!("{name}.lock"))).unwrap();
        lock.lock().unwrap();
        let folder = clients.join(name);
        let done = folder.join("installed");
        if std::fs::read_to_string(&done).is_ok_and(|text| text == packages) {
            return folder;
        }
        if folder.exists() {
            std::fs::remove_dir_all(&folder).unwrap();
        }
        std::fs::create_dir(&folder).unwrap();
        match self {
            Self::JavaScript => {
                needed("node", "nodejs");
                needed("npm", "npm");
                let quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefix"];
                succeed(
                    Command::new("npm")
                        .arg("install")
                        .args(quiet)
                        .arg(&folder)
                        .arg(packages),
                );
            }
            _ => {
                needed("python3", "python3 with its modules venv and pip");
                succeed(Command::new("python3").args(["-m", "venv"]).arg(&folder));
                let pip = [
                    "-m",
                    "pip",
                    "install",
                    "--quiet",
                    "--disable-pip-version-check",
                    packages,
                ];
                succeed(Command::new(folder.join("bin/python3")).args(pip));
            }
        }
        // Written last: what is not whole is made anew.
        std::fs::write(done, packages).unwrap();
        folder
    }
}

/// Says what is missing in words, before something fails because of it.
fn needed(program: &str, package: &str) {
    let there = Command::new(program).arg("--version").output();
    assert!(
        there.is_ok_and(|output| output.status.success()),
        "`{program}` cannot be run, and today's clients are tested with it: install {package}"
    );
}

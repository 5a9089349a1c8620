//! How a command fails: an exit code, and what failed, where, and how to fix it.

use std::fmt::Display;

use maquette_sandbox::ErrorKind;
use serde_json::{Value, json};

/// The result of every command.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// The exit codes, which scripts rely on. `maquette --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// A check, a case or a call failed: the model has to change.
    Failed = 1,
    /// The command line or the input is wrong.
    Usage = 2,
    /// This machine lacks something: a tool, room, a free port, a permission, the network.
    Environment = 3,
    /// The server cannot be reached or refused.
    Server = 4,
}

impl Exit {
    /// The word for it in JSON.
    fn name(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::Environment => "environment",
            Self::Server => "server",
        }
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// What failed.
    pub(crate) what: String,
    /// Where; empty if there is nothing to point at.
    pub(crate) place: String,
    /// How to fix it; empty if nobody knows.
    pub(crate) help: String,
    /// More for the contributor: a log, a backtrace.
    pub(crate) detail: Option<String>,
    /// The result has been printed already, so only the exit code is left to tell.
    pub(crate) told: bool,
}

impl Failure {
    /// A failure with this exit code.
    pub(crate) fn new(exit: Exit, what: impl Display) -> Self {
        Self {
            exit,
            what: what.to_string(),
            place: String::new(),
            help: String::new(),
            detail: None,
            told: false,
        }
    }

    /// A check, a case or a call failed.
    pub(crate) fn failed(what: impl Display) -> Self {
        Self::new(Exit::Failed, what)
    }

    /// The command line or the input is wrong.
    pub(crate) fn usage(what: impl Display) -> Self {
        Self::new(Exit::Usage, what)
    }

    /// This machine lacks something.
    pub(crate) fn environment(what: impl Display) -> Self {
        Self::new(Exit::Environment, what)
    }

    /// A file could not be read or written.
    pub(crate) fn file(what: &str, path: &std::path::Path, cause: &std::io::Error) -> Self {
        Self::environment(format!("cannot {what}: {cause}")).at(path.display())
    }

    /// The command's result says what failed; nothing more is printed.
    pub(crate) fn told(exit: Exit) -> Self {
        Self {
            told: true,
            ..Self::new(exit, "")
        }
    }

    /// Where it failed.
    pub(crate) fn at(mut self, place: impl Display) -> Self {
        self.place = place.to_string();
        self
    }

    /// How to fix it.
    pub(crate) fn help(mut self, help: impl Display) -> Self {
        self.help = help.to_string();
        self
    }

    /// More for the contributor.
    pub(crate) fn detail(mut self, detail: Option<String>) -> Self {
        self.detail = detail;
        self
    }

    /// The failure as `--json` prints it.
    pub(crate) fn json(&self) -> Value {
        let mut error = json!({"kind": self.exit.name(), "message": self.what});
        for (key, text) in [("where", &self.place), ("help", &self.help)] {
            if !text.is_empty() {
                error[key] = json!(text);
            }
        }
        if let Some(detail) = &self.detail {
            error["detail"] = json!(detail);
        }
        json!({"error": error})
    }
}

impl From<maquette_package::Error> for Failure {
    fn from(error: maquette_package::Error) -> Self {
        use maquette_package::Error as E;
        let exit = match &error {
            E::Toolchain(_) | E::Io { .. } | E::NoBlob { .. } => Exit::Environment,
            _ => Exit::Failed,
        };
        if let E::Component { place, report } = &error {
            return Self::new(exit, "the component is not one that the host can run")
                .at(place)
                .detail(Some(report.to_string()));
        }
        match error.note() {
            Some(note) => Self::new(exit, &note.what).at(&note.place).help(&note.help),
            None => Self::new(exit, error),
        }
    }
}

impl From<maquette_sandbox::Error> for Failure {
    fn from(error: maquette_sandbox::Error) -> Self {
        let exit = match error.kind {
            ErrorKind::Component => Exit::Failed,
            ErrorKind::Artifact | ErrorKind::Host => Exit::Environment,
        };
        Self::new(exit, error.message).detail(error.detail)
    }
}

impl From<maquette_server::StartError> for Failure {
    fn from(error: maquette_server::StartError) -> Self {
        use maquette_server::StartError as E;
        let failure = Self::environment(&error);
        match error {
            E::Bind { address, cause } if cause.kind() == std::io::ErrorKind::AddrInUse => Self::environment(format!(
                "{address} is taken: another program listens there"
            ))
            .help(format!(
                "stop it (`ss -ltnp 'sport = :{port}'` names it), or choose another address: --bind 127.0.0.1:{other}",
                port = address.port(),
                other = address.port().saturating_add(1),
            )),
            _ => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use maquette_package::{Error, Note};

    #[test]
    fn a_missing_tool_is_the_machines_fault_and_a_wrong_manifest_the_models() {
        let note = || Note::new("here", "what", "do this");
        let tool = Failure::from(Error::Toolchain(note()));
        assert_eq!((tool.exit as i32, tool.help.as_str()), (3, "do this"));
        let manifest = Failure::from(Error::Manifest(note()));
        assert_eq!((manifest.exit as i32, manifest.place.as_str()), (1, "here"));
    }

    #[test]
    fn a_component_that_traps_is_told_apart_from_a_host_that_fails() {
        let component = maquette_sandbox::Error::component("it trapped").with_detail(Some("frame 0".into()));
        let failure = Failure::from(component);
        assert_eq!(
            (failure.exit, failure.detail.as_deref()),
            (Exit::Failed, Some("frame 0"))
        );
        assert_eq!(
            Failure::from(maquette_sandbox::Error::host("disk")).exit,
            Exit::Environment
        );
    }

    #[test]
    fn a_taken_port_is_said_with_two_ways_out() {
        let failure = Failure::from(maquette_server::StartError::Bind {
            address: "127.0.0.1:4747".parse().unwrap(),
            cause: std::io::ErrorKind::AddrInUse.into(),
        });
        assert_eq!(failure.exit as i32, 3);
        assert!(failure.what.contains("127.0.0.1:4747 is taken"), "{}", failure.what);
        assert!(
            failure.help.contains("ss -ltnp") && failure.help.contains("--bind 127.0.0.1:4748"),
            "{}",
            failure.help
        );
    }

    #[test]
    fn json_has_only_what_is_known() {
        assert_eq!(
            Failure::usage("no").json(),
            json!({"error": {"kind": "usage", "message": "no"}})
        );
        assert_eq!(
            Failure::failed("no").at("here").help("do").json(),
            json!({"error": {"kind": "failed", "message": "no", "where": "here", "help": "do"}})
        );
    }
}

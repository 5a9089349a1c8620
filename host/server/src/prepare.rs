//! Compiling components in a child process: a hostile one can waste the child's time and memory, and nothing else.

mod child;

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

pub use child::prepare_main;

use crate::config::PrepareCommand;
use crate::engine::{ErrorKind, Parts, Prepared};

/// The most that a child may answer.
const MAX_ANSWER: u64 = 8 << 20;

/// How much of a child's standard error is kept: its end, where the cause stands.
const MAX_STDERR: usize = 16 << 10;

/// The largest file that a child may write: the compiled component.
const MAX_FILE: u64 = 4 << 30;

/// Children at once; each may take all the memory it is allowed.
const CHILDREN: usize = 1;

/// What a child answers on standard output.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Prepared(Box<Prepared>),
    Error(maquette_sandbox::Error),
}

/// Why a component could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct PrepareError {
    /// Whether the component is at fault, and not this host.
    pub(crate) component: bool,
    /// What failed.
    pub(crate) message: String,
    /// What the contributor may need beside it.
    pub(crate) detail: Option<String>,
}

impl PrepareError {
    fn host(message: String) -> Self {
        Self {
            component: false,
            message,
            detail: None,
        }
    }
}

/// Runs the child processes.
pub(crate) struct Preparer {
    command: PrepareCommand,
    cache: PathBuf,
    permits: Semaphore,
}

impl Preparer {
    /// `cache` is the folder for compiled components.
    pub(crate) fn new(command: PrepareCommand, cache: PathBuf) -> Self {
        Self {
            command,
            cache,
            permits: Semaphore::new(CHILDREN),
        }
    }

    /// The folder for compiled components.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Checks, compiles and loads a component. If the caller goes away, the child is killed.
    pub(crate) async fn prepare(&self, parts: &Parts) -> Result<Prepared, PrepareError> {
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|e| PrepareError::host(e.to_string()))?;
        let program = self.command.program.display();
        let mut child = Command::new(&self.command.program)
            .args(&self.command.args)
            .arg("--cache")
            .arg(&self.cache)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| PrepareError::host(format!("starting `{program}`, which compiles components: {e}")))?;
        // The child waits for its input, so the limits hold before it sees a byte of it.
        self.limit(&child)
            .map_err(|e| PrepareError::host(format!("limiting `{program}`: {e}")))?;
        let input = serde_json::to_vec(parts).map_err(|e| PrepareError::host(e.to_string()))?;
        let talk = talk(&mut child, input);
        let (answer, stderr, status) = match tokio::time::timeout(self.command.timeout, talk).await {
            Ok(talked) => talked.map_err(|e| PrepareError::host(format!("talking to `{program}`: {e}")))?,
            Err(_) => {
                let _ = child.kill().await;
                return Err(PrepareError {
                    component: true,
                    message: format!(
                        "it was not compiled and loaded within {}",
                        seconds(self.command.timeout)
                    ),
                    detail: None,
                });
            }
        };
        match serde_json::from_slice(&answer) {
            Ok(Answer::Prepared(prepared)) if status.success() => Ok(*prepared),
            Ok(Answer::Error(e)) => Err(PrepareError {
                component: e.kind == ErrorKind::Component,
                message: e.message,
                detail: e.detail,
            }),
            _ => Err(self.died(status, stderr)),
        }
    }

    fn limit(&self, child: &Child) -> rustix::io::Result<()> {
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let set = |resource, limit: u64| {
            let limit = Rlimit {
                current: Some(limit),
                maximum: Some(limit),
            };
            prlimit(pid.or(None), resource, limit).map(drop)
        };
        if pid.is_none() {
            // The child has ended already; talking to it will say so.
            return Ok(());
        }
        // Not RLIMIT_AS: the engine reserves far more address space than it ever uses.
        set(Resource::Data, self.command.memory_bytes)?;
        set(Resource::Cpu, self.command.cpu_seconds)?;
        set(Resource::Fsize, MAX_FILE)?;
        set(Resource::Core, 0)
    }

    /// The child ended without an answer.
    fn died(&self, status: ExitStatus, stderr: String) -> PrepareError {
        use std::os::unix::process::ExitStatusExt as _;
        let memory = self.command.memory_bytes >> 20;
        let signal = status.signal();
        let is = |signals: &[Signal]| signal.is_some_and(|raw| signals.iter().any(|s| s.as_raw() == raw));
        let message = if is(&[Signal::XCPU]) {
            format!(
                "compiling and loading it took more than {} s of processor time",
                self.command.cpu_seconds
            )
        } else if is(&[Signal::ABORT, Signal::SEGV, Signal::KILL, Signal::BUS]) {
            format!(
                "compiling and loading it ended the compiler; most likely it needs more than {memory} MiB of memory"
            )
        } else if let Some(signal) = signal {
            format!("the compiler was ended by signal {signal}")
        } else {
            return PrepareError::host(format!(
                "`{} {}` ended with {status} and no answer: {}",
                self.command.program.display(),
                self.command.args.join(" "),
                stderr.trim()
            ));
        };
        PrepareError {
            component: true,
            message,
            detail: (!stderr.is_empty()).then_some(stderr),
        }
    }
}

/// Sends the input, takes the answer, waits for the end.
async fn talk(child: &mut Child, input: Vec<u8>) -> std::io::Result<(Vec<u8>, String, ExitStatus)> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let send = async {
        if let Some(mut stdin) = stdin {
            // A child that died early says why by its status.
            let _ = stdin.write_all(&input).await;
        }
    };
    let answer = async {
        let mut answer = Vec::new();
        if let Some(stdout) = stdout {
            stdout.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        }
        Ok::<_, std::io::Error>(answer)
    };
    let (_, answer, stderr) = tokio::join!(send, answer, tail(stderr));
    let status = child.wait().await?;
    Ok((answer?, stderr, status))
}

/// The end of a stream.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else { return String::new() };
    let mut kept = Vec::new();
    let mut piece = vec![0; 8192];
    while let Ok(n) = stream.read(&mut piece).await
        && n > 0
    {
        kept.extend_from_slice(&piece[..n]);
        if kept.len() > MAX_STDERR {
            kept.drain(..kept.len() - MAX_STDERR);
        }
    }
    String::from_utf8_lossy(&kept).into_owned()
}

fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(1) {
        format!("{} ms", duration.as_millis())
    } else {
        format!("{} s", duration.as_secs())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::{Limits, Part};
    use std::collections::BTreeMap;
    use std::time::Instant;

    fn parts() -> Parts {
        Parts {
            component: Part {
                digest: "0".repeat(64),
                path: PathBuf::from("/nonexistent"),
            },
            weights: BTreeMap::new(),
            assets: BTreeMap::new(),
            limits: Limits::default(),
        }
    }

    async fn failure(script: &str, change: impl FnOnce(&mut PrepareCommand)) -> PrepareError {
        let mut command = PrepareCommand {
            program: PathBuf::from("/bin/sh"),
            args: vec!["-c".to_owned(), script.to_owned()],
            ..PrepareCommand::default()
        };
        change(&mut command);
        Preparer::new(command, std::env::temp_dir())
            .prepare(&parts())
            .await
            .unwrap_err()
    }

    #[tokio::test]
    async fn a_child_that_hangs_is_killed_in_time() {
        let started = Instant::now();
        let error = failure("exec sleep 60", |c| c.timeout = Duration::from_millis(200)).await;
        assert!(error.component && error.message.contains("within 200 ms"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[tokio::test]
    async fn a_child_that_burns_time_is_stopped_by_its_limit() {
        let error = failure("while :; do :; done", |c| c.cpu_seconds = 1).await;
        assert!(error.component, "{error}");
    }

    #[tokio::test]
    async fn a_child_that_floods_its_streams_costs_bounded_memory() {
        let error = failure(
            "head -c 20000000 /dev/zero >&2; head -c 20000000 /dev/zero; exit 3",
            |_| {},
        )
        .await;
        assert!(
            !error.component && error.message.len() < 4 * MAX_STDERR,
            "{} bytes",
            error.message.len()
        );
    }

    #[tokio::test]
    async fn a_program_that_is_missing_or_fails_is_the_hosts_fault_and_named() {
        let error = failure("", |c| c.program = PathBuf::from("/nonexistent/maquette")).await;
        assert!(
            !error.component && error.message.contains("/nonexistent/maquette"),
            "{error}"
        );
        let error = failure("echo broken >&2; exit 3", |_| {}).await;
        assert!(!error.component && error.message.contains("broken"), "{error}");
    }

    #[tokio::test]
    async fn what_a_child_says_of_the_component_is_passed_on() {
        let answer = r#"{"error":{"kind":"component","message":"it does not compile","detail":"because"}}"#;
        let error = failure(&format!("cat >/dev/null; echo '{answer}'; exit 1"), |_| {}).await;
        assert_eq!((error.component, error.message.as_str()), (true, "it does not compile"));
        assert_eq!(error.detail.as_deref(), Some("because"));
    }
}

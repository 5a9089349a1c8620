//! The processes that are measured from outside: this binary again, told on standard input what to be.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{memory, restart};
use crate::failure::{Failure, Result};
use crate::ui;

/// What a child is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Child {
    /// A host that has just started and makes its first call.
    Restart,
    /// A server that has just started.
    Memory,
}

impl Child {
    fn name(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Memory => "memory",
        }
    }
}

/// Is the child.
pub(crate) fn run(child: Child) -> Result<()> {
    let mut input = String::new();
    std::io::stdin()
        .lock()
        .read_to_string(&mut input)
        .map_err(|e| Failure::environment(format!("the child's input: {e}")))?;
    let answer = match child {
        Child::Restart => to_json(&restart::child(&from_json(&input)?)?)?,
        Child::Memory => to_json(&memory::child(&from_json(&input)?)?)?,
    };
    ui::print(&answer)
}

/// Starts a child and takes its answer.
pub(crate) fn ask<I: Serialize, O: DeserializeOwned>(child: Child, input: &I) -> Result<O> {
    let fail = |e: std::io::Error| Failure::environment(format!("a child process: {e}"));
    let program = std::env::current_exe().map_err(fail)?;
    let mut process = Command::new(program)
        .args(["bench", "--child", child.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    if let Some(mut stdin) = process.stdin.take() {
        stdin.write_all(to_json(input)?.as_bytes()).map_err(fail)?;
    }
    let output = process.wait_with_output().map_err(fail)?;
    if !output.status.success() {
        return Err(Failure::environment(format!(
            "a child process ended with {}",
            output.status
        )));
    }
    from_json(&String::from_utf8_lossy(&output.stdout))
}

fn to_json(value: &impl Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Failure::environment(format!("a child's message: {e}")))
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Failure::environment(format!("a child's message: {e}")))
}

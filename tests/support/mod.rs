//! What the end-to-end tests share: the real binary, its caches, a server that is really running, and HTTP to it.
#![allow(dead_code, unreachable_pub, reason = "not every test file uses everything")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on ends")]

pub mod flood;
pub mod guests;
pub mod http;
pub mod random;
pub mod serve;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The binary under test. Downloads and compiled components are kept between runs, apart from the user's own.
pub fn maquette() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_maquette"));
    command.env(
        "MAQUETTE_CACHE",
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("maquette-cache"),
    );
    command
        .env_remove("MAQUETTE_SERVER")
        .env_remove("MAQUETTE_TOKEN")
        .env_remove("MAQUETTE_DATA");
    command.current_dir(repository()).stdin(Stdio::null());
    command
}

/// Runs a command to its end; its output is shown if it fails.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The JSON document that a command with `--json` printed.
pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stdout)))
}

/// A server that was started by `maquette up`, with a data folder of its own.
pub struct Up {
    child: Child,
    pub told: Value,
    pub data: TempDir,
    agent: ureq::Agent,
}

impl Up {
    pub fn start(dir: &str) -> Self {
        Self::start_in(dir, tempfile::tempdir().unwrap())
    }

    pub fn start_in(dir: &str, data: TempDir) -> Self {
        let mut command = maquette();
        command
            .args(["up", dir, "--json", "--bind", "127.0.0.1:0", "--data"])
            .arg(data.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        // The document is printed once the model answers; the process goes on.
        let mut document = String::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            document.push_str(&line.unwrap());
            if serde_json::from_str::<Value>(&document).is_ok() {
                break;
            }
        }
        let told: Value = serde_json::from_str(&document).unwrap_or_else(|_| panic!("`up` ended: {document}"));
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(60)));
        Self {
            child,
            told,
            data,
            agent: config.build().new_agent(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.told["url"].as_str().unwrap())
    }

    pub fn token(&self) -> String {
        std::fs::read_to_string(self.data.path().join("admin.token"))
            .unwrap()
            .trim()
            .to_owned()
    }

    /// POSTs bytes with the admin's token: status, headers that start with `x-maquette`, body.
    pub fn post(&self, path: &str, body: &[u8]) -> (u16, Vec<(String, String)>, Value) {
        let token = format!("Bearer {}", self.token());
        let request = self
            .agent
            .post(self.url(path))
            .header("authorization", token)
            .content_type("application/json");
        answer(request.send(body).unwrap())
    }

    pub fn get(&self, path: &str, token: Option<&str>) -> (u16, Vec<(String, String)>, Value) {
        let mut request = self.agent.get(self.url(path));
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        answer(request.call().unwrap())
    }

    /// SIGINT, as Ctrl-C sends it; the exit code and how long it took.
    pub fn interrupt(mut self) -> (Option<i32>, Duration, TempDir) {
        let started = Instant::now();
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let status = self.child.wait().unwrap();
        let data = std::mem::replace(&mut self.data, tempfile::tempdir().unwrap());
        (status.code(), started.elapsed(), data)
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(mut response: ureq::http::Response<ureq::Body>) -> (u16, Vec<(String, String)>, Value) {
    let headers = response
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().starts_with("x-"));
    let headers = headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
        .collect();
    let text = response
        .body_mut()
        .with_config()
        .limit(64 << 20)
        .read_to_string()
        .unwrap();
    (
        response.status().as_u16(),
        headers,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

/// The cosine of the angle between two vectors.
pub fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
}

/// A list of lists of numbers.
pub fn vectors(value: &Value) -> Vec<Vec<f64>> {
    let rows = value.as_array().unwrap().iter();
    rows.map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect())
        .collect()
}

//! `maquette serve` as a process that can be killed, published to and looked into.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use maquette_package::Digest;
use serde_json::{Value, json};

use super::http::Client;

/// A running server.
pub struct Serve {
    child: Child,
    pub address: SocketAddr,
    /// The admin's token.
    pub token: String,
    log: PathBuf,
}

impl Serve {
    /// Starts a server on a data folder, on a port of its own. What it logs is added to `DATA.log`.
    pub fn start(data: &Path, args: &[&str]) -> Self {
        Self::start_in(data, args, &[])
    }

    /// [`Serve::start`] with these variables in its environment.
    pub fn start_in(data: &Path, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let log = data.with_extension("log");
        let file = std::fs::File::options().create(true).append(true).open(&log).unwrap();
        let mut command = super::maquette();
        command
            .args(["serve", "--json", "--bind", "127.0.0.1:0", "--data"])
            .arg(data)
            .args(args)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(file);
        let mut child = command.spawn().unwrap();
        let mut document = String::new();
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            document.push_str(&line.unwrap());
            if serde_json::from_str::<Value>(&document).is_ok() {
                break;
            }
        }
        let told: Value = serde_json::from_str(&document).unwrap_or_else(|_| {
            panic!(
                "the server did not start: {document}\n{}",
                std::fs::read_to_string(&log).unwrap()
            )
        });
        let address = told["url"].as_str().unwrap().strip_prefix("http://").unwrap();
        let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
        Self {
            child,
            address: address.parse().unwrap(),
            token: token.trim().to_owned(),
            log,
        }
    }

    pub fn client(&self) -> Client {
        Client::new(self.address, &self.token)
    }

    /// SIGKILL: nothing is tidied up.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}\n{}", self.log());
    }

    /// Everything that servers on this folder have logged.
    pub fn log(&self) -> String {
        let mut text = String::new();
        std::fs::File::open(&self.log)
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }

    /// Publishes a component as `me/NAME`; the version's id.
    pub fn publish(&self, name: &str, component: &[u8], timeout_ms: u64) -> String {
        let limits = json!({"timeout_ms": timeout_ms});
        publish(&mut self.client(), name, "1.0.0", component, &limits)
    }

    /// Makes a token for an owner who calls.
    pub fn owner(&self, owner: &str) -> String {
        let body = json!({"owner": owner, "scopes": ["predict", "read"], "label": "a test"});
        let reply = self.client().post("/v1/tokens", &body).unwrap();
        assert_eq!(reply.status, 201, "{reply:?}");
        reply.json()["token"].as_str().unwrap().to_owned()
    }

    /// A line of `/proc/PID/status`, in KiB: `VmRSS` is what it has in memory, `VmHWM` the most that it ever had.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Publishes a component as a release of `me/NAME`; the version's id.
pub fn publish(client: &mut Client, name: &str, number: &str, component: &[u8], limits: &Value) -> String {
    let digest = Digest::of(component).to_string();
    let sent = client
        .send("PUT", &format!("/v1/blobs/{digest}"), &[], component)
        .unwrap();
    assert!(matches!(sent.status, 200 | 201), "{sent:?}");
    let manifest = json!({
        "schema": 1, "name": name, "version": number, "limits": limits,
        "component": {"sha256": digest, "size": component.len()},
    });
    let path = format!("/v1/models/me/{name}/versions");
    let reply = client
        .post(&path, &json!({"manifest": manifest, "aliases": ["latest"]}))
        .unwrap();
    assert_eq!(reply.status, 201, "{reply:?}");
    reply.json()["id"].as_str().unwrap().to_owned()
}

//! A real server for the clients' scripts: its models, how it is started in each mode, TLS in front of it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::install::Kit;
use crate::support::{maquette, succeed};

/// The models that the scripts call.
const MODELS: [&str; 4] = ["echo", "words", "picture", "pictures"];

/// How a server is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As it starts on a developer's machine.
    Http,
    /// As callers meet it in earnest: TLS in front, and `--public-url` says so.
    Https,
    /// One call runs, one waits, and no more.
    Full,
    /// Behind a proxy that now and then does not get through.
    Stumbling,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Full => "full",
            Self::Stumbling => "stumbling",
        }
    }
}

/// A process that is ended with its test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that runs, and what a script is told of it.
pub(crate) struct Serving {
    /// Ends with it.
    _proxy: Option<Process>,
    server: Process,
    mode: Mode,
    told: Value,
    folder: TempDir,
}

impl Serving {
    /// Starts a server on a data folder.
    pub(crate) fn start(mode: Mode, data: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = maquette();
        // Webhooks of the tests go to this machine, which is not the public internet.
        command.args([
            "serve",
            "--json",
            "--bind",
            "127.0.0.1:0",
            "--allow-outbound",
            "127.0.0.1",
            "--data",
        ]);
        command.arg(data);
        let mut proxy = None;
        let start_proxy = |script: &str| {
            let mut command = Kit::Proxy.script(script);
            command.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
            let mut child = command.spawn().map(Process).unwrap();
            let port = line(&mut child.0);
            (child, port)
        };
        match mode {
            Mode::Http => {}
            Mode::Https => {
                let (child, port) = start_proxy("tls_proxy.py");
                command.args(["--public-url", &format!("https://127.0.0.1:{port}")]);
                proxy = Some((child, format!("https://127.0.0.1:{port}")));
            }
            Mode::Stumbling => {
                let (child, port) = start_proxy("stumbling_proxy.py");
                proxy = Some((child, format!("http://127.0.0.1:{port}")));
            }
            Mode::Full => {
                command.args(["--lanes", "1", "--queue", "1"]);
            }
        }
        let log = File::create(folder.path().join("server.log")).unwrap();
        let mut server = Process(command.stdout(Stdio::piped()).stderr(log).spawn().unwrap());
        let listens = listens(&mut server.0);
        let token = std::fs::read_to_string(data.join("admin.token")).unwrap();
        let (proxy, url) = match proxy {
            None => (None, listens),
            Some((mut child, url)) => {
                let port = listens.rsplit(':').next().unwrap();
                // Kept open: the proxy ends with it.
                writeln!(child.0.stdin.as_mut().unwrap(), "{port}").unwrap();
                (Some(child), url)
            }
        };
        let mut told = json!({"url": url, "token": token.trim(), "account": "admin", "versions": {}});
        let known = std::fs::read_to_string(data.join("versions.json")).unwrap_or_else(|_| "{}".into());
        told["versions"] = serde_json::from_str(&known).unwrap();
        Self {
            _proxy: proxy,
            server,
            mode,
            told,
            folder,
        }
    }

    fn text(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    /// Runs a script's checks of this mode: whether all passed, and what it said.
    pub(crate) fn run(&self, kit: Kit, script: &str) -> (bool, String) {
        let mut command = kit.script(script);
        command.arg(self.mode.name());
        self.finish(command)
    }

    /// Sends whatever the server's own document allows and forbids, so many examples an operation: whether it kept to its document, and
    /// what was found.
    pub(crate) fn fuzz(&self, examples: usize) -> (bool, String) {
        let mut command = Kit::Schemathesis.program("schemathesis");
        // It keeps what it finds where it runs, and would begin with that the next time.
        command
            .current_dir(self.folder.path())
            .arg("--config-file")
            .arg(crate::support::repository().join("tests/clients/schemathesis.toml"))
            .args(["run", &format!("{}/openapi.json", self.text("url")), "--no-color"])
            .args(["-H", &format!("Authorization: Bearer {}", self.text("token"))])
            .args(["--max-examples", &examples.to_string()]);
        self.finish(command)
    }

    fn finish(&self, mut command: Command) -> (bool, String) {
        command
            .env("MAQUETTE_TEST", self.told.to_string())
            .env("REPLICATE_BASE_URL", self.text("url"))
            .env("REPLICATE_API_TOKEN", self.text("token"))
            .env("REPLICATE_POLL_INTERVAL", "0.05")
            // Files that a client keeps go with the test.
            .env("TMPDIR", self.folder.path());
        if self.mode == Mode::Https {
            let authority = self.folder.path().join("ca.pem");
            command
                .env("SSL_CERT_FILE", &authority)
                .env("NODE_EXTRA_CA_CERTS", &authority);
        }
        let output = command.stdin(Stdio::null()).output().unwrap();
        let log = std::fs::read_to_string(self.folder.path().join("server.log")).unwrap();
        let said = format!(
            "{}{}\nThe server's log:\n{log}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status.success(), said)
    }
}

impl Drop for Serving {
    /// As an operator stops it: what it keeps is whole when the next one starts.
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.server.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.server.0.wait();
    }
}

/// The first line that a process says.
fn line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    line.trim().to_owned()
}

/// Where a server listens, which it prints as a document of several lines.
fn listens(child: &mut Child) -> String {
    let mut document = String::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        document.push_str(&line.unwrap());
        if let Ok(told) = serde_json::from_str::<Value>(&document) {
            return told["url"].as_str().unwrap().to_owned();
        }
    }
    panic!("`serve` ended: {document}");
}

/// A data folder with the models of `guests/` and a collection; the versions' ids by name in `versions.json`.
pub(crate) fn published() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let server = Serving::start(Mode::Http, data.path());
    let publish = |model: &str, owner: &str| {
        let mut command = maquette();
        command.args(["publish", "--json", "--skip-tests", "--owner", owner]);
        command.args(["--server", server.text("url"), "--token", server.text("token")]);
        command.arg(format!("tests/guests/{model}"));
        crate::support::json(&succeed(&mut command))["id"].clone()
    };
    let versions: Value = MODELS
        .iter()
        .map(|model| ((*model).to_owned(), publish(model, "local")))
        .collect();
    std::fs::write(data.path().join("versions.json"), versions.to_string()).unwrap();
    // One that may be deleted.
    publish("pictures", "zoo");
    let collection =
        json!({"name": "Favourites", "description": "What we like.", "models": ["local/words", "local/echo"]});
    let response = ureq::put(format!("{}/v1/collections/favourites", server.text("url")))
        .header("authorization", format!("Bearer {}", server.text("token")))
        .content_type("application/json")
        .send(collection.to_string());
    assert!(response.unwrap().status().is_success());
    drop(server);
    data
}

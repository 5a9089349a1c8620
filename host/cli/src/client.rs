//! A client of the server's HTTP API.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use maquette_package::version::{Blob, VersionManifest};
use maquette_package::{Digest, Progress};
use serde_json::{Value, json};
use ureq::http::{Method, Request, StatusCode};

use crate::failure::{Exit, Failure, Result};
use crate::paths;

/// Where the server is and who calls it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// The server's address.
    #[arg(
        long,
        env = "MAQUETTE_SERVER",
        default_value = "http://127.0.0.1:4747",
        value_name = "URL"
    )]
    pub(crate) server: String,
    /// The token to call it with. Without one, the admin token of the data folder is used for a server on this machine.
    #[arg(long, env = "MAQUETTE_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,
    /// The data folder of the server on this machine, whose admin token is used.
    #[arg(long, env = "MAQUETTE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
}

/// What became of a request.
type Sent = Result<ureq::http::Response<ureq::Body>, ureq::Error>;

/// A server, as a client sees it.
pub(crate) struct Client {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

impl Client {
    /// A client of the server that the command line names.
    pub(crate) fn from_args(args: &ServerArgs) -> Result<Self> {
        let base = base(&args.server)?;
        let token = match &args.token {
            Some(token) => Some(token.trim().to_owned()).filter(|t| !t.is_empty()),
            None if is_local(&base) => local_token(&args.data.clone().unwrap_or_else(paths::data))?,
            // The admin token of this machine is nobody else's business.
            None => None,
        };
        Ok(Self::new(&base, token))
    }

    /// A client of the server at `base`, such as `http://127.0.0.1:4747`.
    pub(crate) fn new(base: &str, token: Option<String>) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .user_agent(concat!("maquette/", env!("CARGO_PKG_VERSION")))
            .build();
        Self {
            agent: config.into(),
            base: base.trim_end_matches('/').to_owned(),
            token,
        }
    }

    /// The server's address.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// GET of a path such as `/v1/models`.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.send(Method::GET, path, None)
    }

    /// POST of JSON.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.send(Method::POST, path, Some(body))
    }

    /// DELETE of a path.
    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        self.send(Method::DELETE, path, None).map(drop)
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let sent = self.sent(method, path, body)?;
        self.answer(sent)
    }

    fn sent(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Sent> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        Ok(match body {
            Some(body) => {
                let request = request
                    .header("content-type", "application/json")
                    .body(body.to_string());
                self.agent.run(request.map_err(|e| self.bad_address(&e.to_string()))?)
            }
            None => self
                .agent
                .run(request.body(()).map_err(|e| self.bad_address(&e.to_string()))?),
        })
    }

    fn bad_address(&self, why: &str) -> Failure {
        Failure::usage(format!("`{}` is not the address of a server: {why}", self.base))
            .help("--server http://HOST:PORT")
    }

    /// The body of a good answer; what a bad one means.
    fn answer(&self, sent: Sent) -> Result<Value> {
        self.heard(sent)?
            .map_err(|(status, problem)| refused(&self.base, status, &problem, self.token.is_some()))
    }

    /// The body of a good answer; status and problem of a bad one.
    fn heard(&self, sent: Sent) -> Result<Result<Value, (u16, Value)>> {
        let mut response = sent.map_err(|e| {
            Failure::new(Exit::Server, format!("{} cannot be reached: {e}", self.base))
                .help("start a server with `maquette serve`, or name another one with --server URL")
        })?;
        let status = response.status();
        let text = response
            .body_mut()
            .with_config()
            .limit(64 << 20)
            .read_to_string()
            .map_err(|e| Failure::new(Exit::Server, format!("{} broke off its answer: {e}", self.base)))?;
        if status == StatusCode::NO_CONTENT {
            return Ok(Ok(Value::Null));
        }
        if status.is_success() {
            return serde_json::from_str(&text).map(Ok).map_err(|_| {
                Failure::new(Exit::Server, format!("{} did not answer with JSON", self.base))
                    .help("is this the address of a maquette server?")
            });
        }
        let problem: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Err((status.as_u16(), problem)))
    }

    /// Which of these blobs the server lacks.
    pub(crate) fn missing(&self, blobs: &[Blob]) -> Result<Vec<Blob>> {
        let digests: Vec<String> = blobs.iter().map(|b| b.sha256.to_string()).collect();
        let answer = self.post("/v1/publish/missing", &json!({"digests": digests}))?;
        let missing: Vec<&str> = answer["missing"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        Ok(blobs
            .iter()
            .filter(|b| missing.contains(&b.sha256.to_string().as_str()))
            .copied()
            .collect())
    }

    /// Sends a blob from a file.
    pub(crate) fn put_blob(&self, digest: &Digest, path: &Path, progress: &mut dyn Progress) -> Result<()> {
        let file = File::open(path).map_err(|e| Failure::file("open", path, &e))?;
        let size = file.metadata().map_err(|e| Failure::file("look at", path, &e))?.len();
        let mut reader = Counted { file, progress };
        let mut request = Request::builder()
            .method(Method::PUT)
            .uri(format!("{}/v1/blobs/{digest}", self.base))
            .header("content-type", "application/octet-stream")
            .header("content-length", size.to_string());
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let body = ureq::SendBody::from_reader(&mut reader);
        let request = request.body(body).map_err(|e| self.bad_address(&e.to_string()))?;
        let sent = self.agent.run(request);
        self.answer(sent).map(drop)
    }

    /// Makes a version of a manifest whose blobs the server has. `accept` agrees that it asks for more than the version before; without,
    /// what grew comes back as the inner error: objects with `field`, `before` and `now`.
    pub(crate) fn publish(
        &self,
        owner: &str,
        manifest: &VersionManifest,
        aliases: &[String],
        accept: bool,
    ) -> Result<Result<Value, Vec<Value>>> {
        let document: Value = serde_json::from_str(&manifest.canonical_json())
            .map_err(|e| Failure::failed(format!("the manifest cannot be sent: {e}")))?;
        let mut body = json!({"manifest": document, "id": manifest.id().to_string(), "aliases": aliases});
        if accept {
            body["accept_grants"] = true.into();
        }
        let path = format!("/v1/models/{owner}/{}/versions", manifest.name);
        let sent = self.sent(Method::POST, &path, Some(&body))?;
        match self.heard(sent)? {
            Ok(answer) => Ok(Ok(answer)),
            Err((_, problem)) if problem["code"] == "needs-consent" => {
                Ok(Err(problem["grew"].as_array().cloned().unwrap_or_default()))
            }
            Err((status, problem)) => Err(refused(&self.base, status, &problem, self.token.is_some())),
        }
    }
}

/// Counts what is read of a file.
struct Counted<'a> {
    file: File,
    progress: &'a mut dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.progress.advance(n as u64);
        Ok(n)
    }
}

/// What a refusal means for whoever ran the command.
fn refused(base: &str, status: u16, problem: &Value, had_token: bool) -> Failure {
    let text = |key: &str| problem.get(key).and_then(Value::as_str);
    let detail = text("detail").or(text("title")).unwrap_or("it did not say why");
    let step = text("step");
    let exit = match status {
        422 if step.is_some() => Exit::Failed,
        _ => Exit::Server,
    };
    let what = match step {
        Some(_) => format!("publishing failed at the step {detail}"),
        None => format!("{base} refused ({status}): {detail}"),
    };
    let help = match (status, had_token) {
        (401, true) => "the token is not one of this server's: pass another one with --token, or set MAQUETTE_TOKEN",
        (401, false) => {
            "pass a token with --token, or set MAQUETTE_TOKEN; the first start of the server wrote one to admin.token in its data folder"
        }
        (403, _) => "ask the server's operator for a token that may do this",
        (429 | 503, _) => "try again in a moment",
        _ => "",
    };
    let mut log = Vec::new();
    for failure in problem.get("failures").and_then(Value::as_array).into_iter().flatten() {
        log.push(format!(
            "case `{}`: {}",
            failure["case"].as_str().unwrap_or_default(),
            failure["why"].as_str().unwrap_or_default()
        ));
    }
    for error in problem.get("errors").and_then(Value::as_array).into_iter().flatten() {
        let field = error["field"].as_str().unwrap_or_default();
        log.push(format!("{field}: {}", error["message"].as_str().unwrap_or_default()));
    }
    log.extend(text("log").map(str::to_owned));
    Failure::new(exit, what)
        .help(help)
        .detail((!log.is_empty()).then(|| log.join("\n")))
}

/// The address without a path, a query or a trailing slash.
fn base(server: &str) -> Result<String> {
    let trimmed = server.trim();
    let with_scheme = if trimmed.contains("://") {
        trimmed.to_owned()
    } else {
        format!("http://{trimmed}")
    };
    let fail = |why: &str| {
        Failure::usage(format!("`{server}` is not the address of a server: {why}")).help("write it as http://HOST:PORT")
    };
    let uri: ureq::http::Uri = with_scheme.parse().map_err(|_| fail("it does not read as a URL"))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some_and(|h| !h.is_empty()) => {
            Ok(with_scheme.trim_end_matches('/').to_owned())
        }
        _ => Err(fail("it must begin with http:// or https://")),
    }
}

/// Whether an address is this very machine.
fn is_local(base: &str) -> bool {
    let Ok(uri) = base.parse::<ureq::http::Uri>() else {
        return false;
    };
    let Some(host) = uri.host() else { return false };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The admin token of the server on this machine, if it has one.
pub(crate) fn local_token(data: &Path) -> Result<Option<String>> {
    let path = paths::admin_token(data);
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|t| !t.is_empty())),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::file("read the server's token", &path, &e)
            .help("run this as the server's user, or pass a token with --token")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::net::TcpListener;

    /// Answers one request with these bytes; returns what was asked (head and body).
    fn serve(answer: &'static str) -> (String, std::thread::JoinHandle<(String, Vec<u8>)>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                reader.read_line(&mut head).unwrap();
            }
            let length = head
                .lines()
                .find_map(|l| {
                    l.to_ascii_lowercase()
                        .strip_prefix("content-length:")
                        .map(|v| v.trim().parse().unwrap())
                })
                .unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            (head, body)
        });
        (address, served)
    }

    #[test]
    fn a_token_travels_as_a_bearer_and_the_answer_is_json() {
        let (base, served) = serve("HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\n{\"a\": 1}\n");
        let answer = Client::new(&base, Some("mqt_x".into())).get("/v1/models").unwrap();
        assert_eq!(answer, json!({"a": 1}));
        let (head, _) = served.join().unwrap();
        assert!(head.starts_with("GET /v1/models HTTP/1.1\r\n"), "{head}");
        assert!(
            head.to_ascii_lowercase().contains("authorization: bearer mqt_x\r\n"),
            "{head}"
        );
    }

    #[test]
    fn a_blob_is_sent_whole_with_its_length_and_counted() {
        struct Count(u64);
        impl Progress for Count {
            fn begin(&mut self, _: &str, _: Option<u64>) {}
            fn advance(&mut self, bytes: u64) {
                self.0 += bytes;
            }
            fn end(&mut self) {}
            fn say(&mut self, _: &str) {}
        }
        let (base, served) = serve("HTTP/1.1 201 Created\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        std::fs::write(&path, vec![7; 100_000]).unwrap();
        let mut count = Count(0);
        let digest = Digest::of(&vec![7; 100_000]);
        Client::new(&base, None).put_blob(&digest, &path, &mut count).unwrap();
        let (head, body) = served.join().unwrap();
        assert!(head.starts_with(&format!("PUT /v1/blobs/{digest} ")), "{head}");
        assert!(head.to_ascii_lowercase().contains("content-length: 100000"), "{head}");
        assert_eq!((body.len(), count.0), (100_000, 100_000));
    }

    #[test]
    fn a_failed_step_of_a_publish_is_told_with_its_cases_and_log() {
        let problem = json!({"detail": "cases: case `a`: no", "step": "cases", "log": "frame 0",
            "failures": [{"case": "a", "why": "no"}]});
        let failure = refused("http://x", 422, &problem, true);
        assert_eq!(failure.exit, Exit::Failed);
        assert_eq!(failure.what, "publishing failed at the step cases: case `a`: no");
        assert_eq!(failure.detail.as_deref(), Some("case `a`: no\nframe 0"));
    }

    #[test]
    fn a_refusal_says_what_to_do_about_tokens() {
        let problem = json!({"detail": "You did not pass a valid authentication token"});
        assert!(refused("http://x", 401, &problem, false).help.contains("--token"));
        assert!(
            refused("http://x", 401, &problem, true)
                .help
                .contains("not one of this server's")
        );
        let plain = refused("http://x", 502, &Value::Null, true);
        assert_eq!(
            (plain.exit as i32, plain.what.as_str()),
            (4, "http://x refused (502): it did not say why")
        );
    }

    #[test]
    fn a_server_that_is_not_there_is_said_to_be_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let failure = Client::new(&base, None).get("/healthz").unwrap_err();
        assert_eq!(failure.exit as i32, 4);
        assert!(
            failure.what.contains("cannot be reached") && failure.help.contains("maquette serve"),
            "{failure:?}"
        );
    }

    #[test]
    fn addresses_are_read_with_or_without_a_scheme() {
        assert_eq!(base("localhost:4747/").unwrap(), "http://localhost:4747");
        assert_eq!(base("https://models.example").unwrap(), "https://models.example");
        for bad in ["ftp://x", "http://", "a b"] {
            assert_eq!(base(bad).unwrap_err().exit as i32, 2, "{bad}");
        }
    }

    #[test]
    fn the_admin_token_is_offered_to_this_machine_alone() {
        for (address, local) in [
            ("http://127.0.0.1:4747", true),
            ("http://[::1]:4747", true),
            ("http://localhost", true),
            ("http://localhost.example", false),
            ("https://models.example", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(is_local(address), local, "{address}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("admin.token"), "mqt_secret\n").unwrap();
        let args = |server: &str| ServerArgs {
            server: server.into(),
            token: None,
            data: Some(folder.path().into()),
        };
        let token = |server: &str| Client::from_args(&args(server)).unwrap().token;
        assert_eq!(token("127.0.0.1:4747").as_deref(), Some("mqt_secret"));
        assert_eq!(token("https://models.example"), None);
    }
}

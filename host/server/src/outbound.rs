//! The one way out: requests that the server makes because a caller named a URL, guarded so that they reach the public internet and
//! what the operator allows, and nothing else.
//!
//! A name is looked up once; every address is checked and only checked ones are connected to, so nothing can change in between. No
//! redirects, no proxies of the environment, no more bytes and no more time than asked for. Blocking, on threads of tokio's pool
//! that are bounded here.

mod address;
mod rules;

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use ureq::{Agent, Error};
use url::Url;

use crate::keyed::Keyed;
use crate::problem::Problem;
use rules::Rules;
pub(crate) use rules::shown;

/// Fetches at once, and of one owner.
const FETCHES: (usize, usize) = (32, 4);

/// Posts at once. Whoever posts bounds those of one owner.
pub(crate) const POSTS: usize = 64;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// What is read of the answer to a post, in bytes, and thrown away: a receiver may finish its sentence.
const MAX_ANSWER: u64 = 64 << 10;

/// Bytes read at once.
const PIECE: usize = 64 << 10;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OutboundError {
    /// The server does not go to this URL, now or ever.
    #[error("{0}")]
    Refused(String),
    /// The name has no address that the server goes to. Says no more: whether a private name exists is not the caller's to know.
    #[error("no address of `{0}` is one that this server goes to")]
    NoAddress(String),
    /// It took too long.
    #[error("no complete answer within {} s", .0.as_secs_f64())]
    Timeout(Duration),
    /// The answer has more bytes than asked for.
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
    /// The answer is not a success; redirects are not followed.
    #[error("{host} answered with status {status}{}", if (300..400).contains(status) { "; redirects are not followed" } else { "" })]
    Status {
        /// Who answered.
        host: String,
        /// What it answered.
        status: u16,
    },
    /// The connection failed.
    #[error("{0}")]
    Failed(String),
    /// Whoever pays for the bytes had enough.
    #[error("{}", .0.body()["detail"])]
    Charged(Problem),
}

/// How much a fetch may bring and how long it may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Bytes of the file.
    pub(crate) bytes: u64,
    /// From the look-up of the name to the last byte.
    pub(crate) time: Duration,
}

/// What a fetch brought.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fetched {
    /// As the other side declared it, without parameters.
    pub(crate) media_type: String,
    /// The file.
    pub(crate) bytes: Vec<u8>,
}

/// Asked before bytes are kept; an error ends the fetch.
pub(crate) type Charge = Box<dyn FnMut(u64) -> Result<(), Problem> + Send>;

/// The way out.
#[derive(Clone, Debug)]
pub(crate) struct Outbound {
    rules: Arc<Rules>,
    agent: Agent,
    fetches: Arc<Semaphore>,
    fetches_of: Arc<Keyed>,
    posts: Arc<Semaphore>,
}

impl Outbound {
    /// To the public internet, and what the operator allows (see [`crate::Config::outbound_allow`]).
    ///
    /// # Errors
    /// Names the exception that does not read.
    pub(crate) fn new(exceptions: &[String]) -> Result<Self, String> {
        Ok(Self::with(Rules::new(exceptions)?, DefaultResolver::default()))
    }

    fn with(rules: Rules, names: impl Resolver) -> Self {
        let rules = Arc::new(rules);
        let config = Config::builder()
            .proxy(None)
            .max_redirects(0)
            .http_status_as_error(false)
            .max_idle_connections(0)
            .max_response_header_size(32 << 10)
            .timeout_connect(Some(CONNECT))
            .user_agent(concat!("maquette/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .build();
        let guard = Guard {
            rules: Arc::clone(&rules),
            names: Box::new(names),
        };
        Self {
            rules,
            agent: Agent::with_parts(config, DefaultConnector::default(), guard),
            fetches: Arc::new(Semaphore::new(FETCHES.0)),
            fetches_of: Arc::new(Keyed::new(FETCHES.1)),
            posts: Arc::new(Semaphore::new(POSTS)),
        }
    }

    /// Checks a URL without going there: scheme, user, port, and addresses written out.
    ///
    /// # Errors
    /// [`OutboundError::Refused`], saying why.
    pub(crate) fn check(&self, url: &str) -> Result<Url, OutboundError> {
        let url = self.rules.check(url)?;
        // What browsers take and HTTP does not.
        match url.as_str().parse::<Uri>() {
            Ok(_) => Ok(url),
            Err(_) => Err(OutboundError::Refused(
                "the URL has characters that must be percent-encoded".to_owned(),
            )),
        }
    }

    /// Gets a file for an owner. `charge` is asked before bytes are kept.
    ///
    /// # Errors
    /// Any [`OutboundError`].
    pub(crate) async fn fetch(
        &self,
        owner: &str,
        url: &str,
        limits: Limits,
        charge: Charge,
    ) -> Result<Fetched, OutboundError> {
        let url = self.check(url)?;
        let closed = || OutboundError::Failed("the server is stopping".to_owned());
        let own = self.fetches_of.acquire(owner).await.ok_or_else(closed)?;
        let place = Arc::clone(&self.fetches).acquire_owned().await.map_err(|_| closed())?;
        let agent = self.agent.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _places = (own, place);
            get(&agent, &url, limits, charge)
        });
        work.await
            .map_err(|_| OutboundError::Failed("the request broke off".to_owned()))?
    }

    /// Posts a body and returns the status; the answer's body is thrown away.
    ///
    /// # Errors
    /// Any [`OutboundError`] but `Status`, `TooLarge` and `Charged`.
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: Vec<(&'static str, String)>,
        body: Arc<str>,
        timeout: Duration,
    ) -> Result<u16, OutboundError> {
        let url = self.check(url)?;
        let closed = |_| OutboundError::Failed("the server is stopping".to_owned());
        let place = Arc::clone(&self.posts).acquire_owned().await.map_err(closed)?;
        let agent = self.agent.clone();
        let work = tokio::task::spawn_blocking(move || {
            let _place = place;
            send(&agent, &url, headers, &body, timeout)
        });
        work.await
            .map_err(|_| OutboundError::Failed("the request broke off".to_owned()))?
    }
}

fn get(agent: &Agent, url: &Url, limits: Limits, mut charge: Charge) -> Result<Fetched, OutboundError> {
    let fail = |e: &Error| explain(e, url, limits.time);
    let request = agent.get(url.as_str()).header("accept", "*/*").config();
    let sent = request.timeout_global(Some(limits.time)).build().call();
    let mut response = sent.map_err(|e| fail(&e))?;
    let status = response.status().as_u16();
    if !(200..300).contains(&status) {
        let host = host(url);
        return Err(OutboundError::Status { host, status });
    }
    let media_type = response
        .body()
        .mime_type()
        .unwrap_or("application/octet-stream")
        .to_owned();
    if response
        .body()
        .content_length()
        .is_some_and(|length| length > limits.bytes)
    {
        return Err(OutboundError::TooLarge(limits.bytes));
    }
    let mut reader = response.body_mut().as_reader();
    let (mut bytes, mut piece) = (Vec::new(), vec![0; PIECE]);
    loop {
        let n = match reader.read(&mut piece) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(fail(&Error::from(e))),
        };
        if (bytes.len() + n) as u64 > limits.bytes {
            return Err(OutboundError::TooLarge(limits.bytes));
        }
        charge(n as u64).map_err(OutboundError::Charged)?;
        bytes.extend_from_slice(&piece[..n]);
    }
    Ok(Fetched { media_type, bytes })
}

fn send(
    agent: &Agent,
    url: &Url,
    headers: Vec<(&'static str, String)>,
    body: &str,
    timeout: Duration,
) -> Result<u16, OutboundError> {
    let mut request = agent.post(url.as_str());
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.config().timeout_global(Some(timeout)).build();
    let mut response = request.send(body).map_err(|e| explain(&e, url, timeout))?;
    let status = response.status().as_u16();
    // What the receiver says beyond its status is nobody's business, and may be cut off.
    let mut rest = response.body_mut().as_reader().take(MAX_ANSWER);
    let _ = std::io::copy(&mut rest, &mut std::io::sink());
    Ok(status)
}

fn host(url: &Url) -> String {
    crate::names::shown(url.host_str().unwrap_or_default())
}

/// A failure in the caller's words: no path, no query, no address.
fn explain(error: &Error, url: &Url, limit: Duration) -> OutboundError {
    let host = host(url);
    match error {
        Error::Timeout(_) => OutboundError::Timeout(limit),
        Error::HostNotFound => OutboundError::NoAddress(host),
        Error::Other(e) if e.is::<NoAddress>() => OutboundError::NoAddress(host),
        Error::Io(e) => match e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(inner) => explain(inner, url, limit),
            None if is_lookup(e) => OutboundError::NoAddress(host),
            None => OutboundError::Failed(format!("the connection to {host} failed: {}", e.kind())),
        },
        Error::Tls(_) | Error::Rustls(_) => OutboundError::Failed(format!("no secure connection to {host} came about")),
        Error::Protocol(_) => OutboundError::Failed(format!("{host} does not speak HTTP as it should")),
        _ => OutboundError::Failed(format!("the connection to {host} failed")),
    }
}

/// Whether an error is the system's resolver's, which has no kind of its own.
fn is_lookup(error: &std::io::Error) -> bool {
    error.raw_os_error().is_none()
        && error.kind() != std::io::ErrorKind::UnexpectedEof
        && error.to_string().contains("lookup")
}

/// Looks names up and lets only permitted addresses through.
#[derive(Debug)]
struct Guard {
    rules: Arc<Rules>,
    names: Box<dyn Resolver>,
}

#[derive(Debug, thiserror::Error)]
#[error("no permitted address")]
struct NoAddress;

impl Resolver for Guard {
    fn resolve(&self, uri: &Uri, config: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let name = uri.host().unwrap_or_default();
        let found = self.names.resolve(uri, config, timeout)?;
        let mut permitted = self.empty();
        for address in found.iter().filter(|address| self.rules.permits(name, **address)) {
            permitted.push(*address);
        }
        if permitted.is_empty() {
            return Err(Error::Other(Box::new(NoAddress)));
        }
        Ok(permitted)
    }
}

#[cfg(test)]
mod tests;

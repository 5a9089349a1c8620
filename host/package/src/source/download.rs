//! Downloading over HTTP: what is cut off is continued, now or by a later run.

use std::io::Read;
use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body};

use super::roots;
use crate::blobs::{BlobStore, Partial};
use crate::{Digest, Error, Note, Progress, Result};

/// How to go about it.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Refuse plain `http:`, also where a redirect leads to it.
    pub(super) https_only: bool,
    /// Give up waiting for the next bytes, or for a connection, after this time.
    pub(super) stall: Duration,
    /// The pause before the second try; it doubles from try to try.
    pub(super) pause: Duration,
    /// How many tries in a row may bring nothing.
    pub(super) tries: u32,
}

/// What to download.
pub(super) struct Wanted<'a> {
    pub(super) url: &'a str,
    /// The source as the manifest writes it, for messages.
    pub(super) shown: &'a str,
    pub(super) expected: Option<Digest>,
    /// The length, if the manifest says it.
    pub(super) size: Option<u64>,
    /// The most bytes to accept.
    pub(super) most: u64,
}

/// Why one try ended early.
enum Stop {
    /// Trying again cannot help.
    Fatal(Error),
    /// It may.
    Again(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Fatal(error)
    }
}

/// Downloads into the store. Returns the digest: the expected one, if there is one.
pub(super) fn download(
    wanted: &Wanted<'_>,
    settings: &Settings,
    store: &BlobStore,
    progress: &mut dyn Progress,
) -> Result<Digest> {
    // Bytes of another URL with the same digest are as good; without a digest only those of the same URL are.
    let key = wanted
        .expected
        .unwrap_or_else(|| Digest::of(format!("unpinned {}", wanted.url).as_bytes()));
    let waits = || {
        progress.say(&format!(
            "{}: another process is fetching it, waiting for that",
            wanted.shown
        ))
    };
    let mut part = store.partial(&key, waits)?;
    if let Some(digest) = wanted.expected.filter(|d| store.has(d)) {
        part.discard(); // Another process fetched it while this one waited for the lock.
        return Ok(digest);
    }
    if wanted.expected.is_none() {
        part.restart()?; // Without a digest nothing tells whether the file has changed since.
    }
    let mut bar = Bar {
        progress,
        what: format!("fetching {}", wanted.shown),
        open: false,
    };
    let agent = agent(settings);
    let mut resumed = part.size() > 0;
    loop {
        let outcome = complete(wanted, settings, &agent, &mut part, &mut bar);
        bar.end();
        outcome?;
        let actual = part.digest();
        match wanted.expected {
            Some(expected) if expected != actual => {
                if resumed {
                    // The beginning may stem from an older file: once more, all of it.
                    bar.progress.say(&format!(
                        "{}: the resumed file is not the expected one, starting over",
                        wanted.shown
                    ));
                    part.restart()?;
                    resumed = false;
                    continue;
                }
                part.discard();
                return Err(super::fetch::mismatch(wanted.shown, expected, actual));
            }
            _ => return part.adopt(),
        }
    }
}

/// Tries until all bytes are here.
fn complete(
    wanted: &Wanted<'_>,
    settings: &Settings,
    agent: &Agent,
    part: &mut Partial,
    bar: &mut Bar<'_>,
) -> Result<()> {
    let mut fruitless = 0;
    loop {
        if wanted.expected == Some(part.digest()) {
            return Ok(());
        }
        let before = part.size();
        let why = match attempt(wanted, agent, part, bar) {
            Ok(()) => return Ok(()),
            Err(Stop::Fatal(error)) => return Err(error),
            Err(Stop::Again(why)) => why,
        };
        fruitless = if part.size() > before { 1 } else { fruitless + 1 };
        if fruitless >= settings.tries {
            let what = format!("the download failed {fruitless} times in a row: {why}");
            let help = "check the network and run this again: what has arrived is kept";
            return Err(Error::Source(Note::new(wanted.shown, what, help)));
        }
        bar.progress.say(&format!(
            "{}: {why}; trying again from byte {}",
            wanted.shown,
            part.size()
        ));
        std::thread::sleep(settings.pause * 2u32.saturating_pow(fruitless - 1));
    }
}

/// One request, and as much of its answer as comes.
fn attempt(wanted: &Wanted<'_>, agent: &Agent, part: &mut Partial, bar: &mut Bar<'_>) -> Result<(), Stop> {
    let refuse = |what: String, help: &str| Stop::Fatal(Error::Source(Note::new(wanted.shown, what, help)));
    // A compressed answer could not be continued in the middle.
    let mut request = agent.get(wanted.url).header(header::ACCEPT_ENCODING, "identity");
    if part.size() > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", part.size()));
    }
    let response = request.call().map_err(|e| unanswered(wanted, e))?;
    let status = response.status();
    let range = content_range(&response);
    match status {
        StatusCode::PARTIAL_CONTENT if range.is_some_and(|(start, _)| start == Some(part.size())) => {}
        StatusCode::PARTIAL_CONTENT => {
            part.restart()?;
            return Err(Stop::Again(
                "the server sent another part than the one asked for".into(),
            ));
        }
        StatusCode::RANGE_NOT_SATISFIABLE => {
            if range.is_some_and(|(_, total)| total == Some(part.size())) {
                return Ok(()); // All of it was here.
            }
            part.restart()?;
            return Err(Stop::Again("the server's file is shorter than what was here".into()));
        }
        // Also the answer of a server that does not know ranges.
        s if s.is_success() => part.restart()?,
        s if s.is_server_error() || matches!(s.as_u16(), 408 | 425 | 429) => {
            return Err(Stop::Again(format!("the server answered {s}")));
        }
        s => {
            let help = match s.as_u16() {
                401 | 403 => "only files that anybody may read can be named; check the URL",
                404 | 410 => "check the spelling, and whether the file still exists",
                _ => "check the URL",
            };
            return Err(refuse(format!("the server answered {s}"), help));
        }
    }
    let total = length(&response).map(|n| n + part.size());
    if let (Some(total), Some(size)) = (total, wanted.size)
        && total != size
    {
        let what = format!("the server's file has {total} bytes, `size` in maquette.toml says {size}");
        return Err(refuse(what, "correct `size`, or find out why the file is another"));
    }
    let too_much = || {
        let what = format!("the file has more than {} bytes", wanted.most);
        refuse(what, "if it is the right file, state its `size` in maquette.toml")
    };
    if total.is_some_and(|t| t > wanted.most) {
        return Err(too_much());
    }
    bar.begin(total, part.size());
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                if part.size() + n as u64 > wanted.most {
                    part.restart()?;
                    return Err(too_much());
                }
                part.append(&buffer[..n])?;
                bar.progress.advance(n as u64);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => {
                bar.end();
                return Err(Stop::Again(format!("the connection broke ({e})")));
            }
        }
    }
    match total.filter(|t| *t != part.size()) {
        Some(total) => Err(Stop::Again(format!(
            "the connection ended at byte {} of {total}",
            part.size()
        ))),
        None => Ok(()),
    }
}

fn agent(settings: &Settings) -> Agent {
    Agent::config_builder()
        .https_only(settings.https_only)
        .http_status_as_error(false)
        .timeout_connect(Some(settings.stall))
        .timeout_recv_response(Some(settings.stall))
        .timeout_per_read(Some(settings.stall))
        .tls_config(TlsConfig::builder().root_certs(roots::certificates()).build())
        .user_agent(concat!("maquette/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

/// What a request that got no answer means.
fn unanswered(wanted: &Wanted<'_>, error: ureq::Error) -> Stop {
    let refuse = |what: String, help: &str| Stop::Fatal(Error::Source(Note::new(wanted.shown, what, help)));
    match error {
        ureq::Error::RequireHttpsOnly(to) => refuse(
            format!("the server redirects to `{to}`, which is not protected on its way"),
            "name a URL that stays on https:",
        ),
        ureq::Error::TooManyRedirects => refuse("the server redirects in circles".into(), "check the URL"),
        ureq::Error::BadUri(why) => refuse(format!("the URL cannot be used: {why}"), "check its spelling"),
        e @ (ureq::Error::Tls(_) | ureq::Error::Rustls(_)) => refuse(
            format!("no secure connection: {e}"),
            "check the host, the clock of this machine and its proxy settings",
        ),
        other => Stop::Again(other.to_string()),
    }
}

/// The start and the total of a `Content-Range`, as far as it says them.
fn content_range(response: &Response<Body>) -> Option<(Option<u64>, Option<u64>)> {
    let text = response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes")?.trim().split_once('/')?;
    let start = range.split_once('-').and_then(|(start, _)| start.trim().parse().ok());
    Some((start, total.trim().parse().ok()))
}

fn length(response: &Response<Body>) -> Option<u64> {
    response
        .headers()
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

/// Begins and ends a task of a [`Progress`] in pairs.
struct Bar<'a> {
    progress: &'a mut dyn Progress,
    what: String,
    open: bool,
}

impl Bar<'_> {
    fn begin(&mut self, total: Option<u64>, done: u64) {
        self.end();
        self.progress.begin(&self.what, total);
        if done > 0 {
            self.progress.advance(done);
        }
        self.open = true;
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            self.progress.end();
        }
    }
}

//! A load generator: keep-alive connections on one thread, each asking again as soon as it is answered. It speaks just enough
//! HTTP/1.1 to be cheap, since it shares the machine with what it measures.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::figure::{process_cpu, thread_cpu};
use crate::failure::{Failure, Result};

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Requests answered with 200.
    pub(crate) requests: u64,
    /// Wall time.
    pub(crate) elapsed: Duration,
    /// Processor time of this process but for the load generator's own.
    pub(crate) server_cpu: Duration,
}

impl Load {
    /// Requests a second.
    pub(crate) fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Microseconds of processor time a request.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.server_cpu.as_secs_f64() * 1e6 / (self.requests as f64).max(1.0)
    }
}

/// A POST of JSON as it goes over the wire.
pub(crate) fn request(path: &str, token: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends `request` over and over on `connections` connections. Blocks, on the caller's thread alone.
pub(crate) fn run(address: SocketAddr, request: &[u8], connections: usize, duration: Duration) -> Result<Load> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|e| Failure::environment(format!("the load generator cannot start: {e}")))?;
    runtime.block_on(async {
        let mut open = Vec::with_capacity(connections);
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await.map_err(|e| lost(&e.to_string()))?;
            stream.set_nodelay(true).map_err(|e| lost(&e.to_string()))?;
            open.push(stream);
        }
        let (started, own, all) = (Instant::now(), thread_cpu(), process_cpu());
        let end = started + duration;
        let request: std::sync::Arc<[u8]> = request.into();
        let mut tasks = tokio::task::JoinSet::new();
        for stream in open {
            tasks.spawn(ask(stream, request.clone(), end));
        }
        let mut requests = 0;
        while let Some(done) = tasks.join_next().await {
            requests += done.map_err(|e| lost(&e.to_string()))??;
        }
        let (all, own) = (process_cpu() - all, thread_cpu() - own);
        Ok(Load {
            requests,
            elapsed: started.elapsed(),
            server_cpu: all.saturating_sub(own),
        })
    })
}

fn lost(why: &str) -> Failure {
    Failure::environment(format!("a connection of the load generator failed: {why}"))
}

async fn ask(mut stream: TcpStream, request: std::sync::Arc<[u8]>, end: Instant) -> Result<u64> {
    let mut buffer = Vec::with_capacity(4096);
    let mut answered = 0;
    while Instant::now() < end {
        stream.write_all(&request).await.map_err(|e| lost(&e.to_string()))?;
        buffer.clear();
        let whole = loop {
            if let Some(whole) = length(&buffer)?
                && buffer.len() >= whole
            {
                break whole;
            }
            let n = stream.read_buf(&mut buffer).await.map_err(|e| lost(&e.to_string()))?;
            if n == 0 {
                return Err(lost("the server closed it"));
            }
        };
        if !buffer.starts_with(b"HTTP/1.1 200 ") || buffer.len() != whole {
            let text = String::from_utf8_lossy(&buffer);
            return Err(lost(&format!(
                "the answer was {}",
                text.chars().take(400).collect::<String>()
            )));
        }
        answered += 1;
    }
    Ok(answered)
}

/// The length of a response, head and body, once its head is here.
fn length(bytes: &[u8]) -> Result<Option<usize>> {
    let Some(head) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return Ok(None);
    };
    for line in bytes[..head].split(|b| *b == b'\n') {
        let Some(colon) = line.iter().position(|b| *b == b':') else {
            continue;
        };
        if line[..colon].eq_ignore_ascii_case(b"content-length") {
            let text = String::from_utf8_lossy(&line[colon + 1..]);
            let body: usize = text
                .trim()
                .parse()
                .map_err(|_| lost("the answer's length is no number"))?;
            return Ok(Some(head + 4 + body));
        }
    }
    Err(lost("the answer has no length"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_response_is_measured_by_its_head() {
        assert_eq!(length(b"HTTP/1.1 200 OK\r\nContent-Le").unwrap(), None);
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nx: y\r\n\r\nhello";
        assert_eq!(length(whole).unwrap(), Some(whole.len()));
        assert_eq!(length(&whole[..whole.len() - 2]).unwrap(), Some(whole.len()));
        assert!(length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}

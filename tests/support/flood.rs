//! Many requests at given moments from one thread: connections that are kept open, each with one request at a time.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// What became of a request.
#[derive(Debug)]
pub struct Done {
    /// Which of the requests it was.
    pub which: usize,
    pub status: u16,
    /// Whether the reply said `Retry-After`.
    pub retry_after: bool,
    pub body: Vec<u8>,
    /// From the moment at which it was to be sent to the sending: what this thread is behind.
    pub late: Duration,
    /// From the sending to the end of the reply.
    pub took: Duration,
    /// From the beginning of the flood to the end of the reply.
    pub at: Duration,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// One after the other on each connection.
    Closed,
    /// So many a second, whatever becomes of them, as long as a connection is free.
    Open(f64),
}

/// A flood of requests.
pub struct Flood<'a> {
    pub address: SocketAddr,
    pub connections: usize,
    pub pace: Pace,
    /// How long requests are sent; those that are on their way are waited for.
    pub time: Duration,
    /// The bytes of the nth request.
    pub request: &'a dyn Fn(usize) -> Vec<u8>,
}

impl Flood<'_> {
    /// Sends them, from this thread alone.
    pub fn run(&self) -> Vec<Done> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let next = Rc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let opening = (0..self.connections).map(|_| async {
                let stream = TcpStream::connect(self.address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                BufReader::with_capacity(2048, stream)
            });
            let mut streams = Vec::new();
            for stream in opening {
                streams.push(stream.await);
            }
            let started = Instant::now();
            let calling = streams.into_iter().map(|stream| self.call(stream, &next, started));
            futures::future::join_all(calling).await.into_iter().flatten().collect()
        })
    }

    async fn call(&self, mut stream: BufReader<TcpStream>, next: &AtomicUsize, started: Instant) -> Vec<Done> {
        let mut done = Vec::new();
        loop {
            let which = next.fetch_add(1, Ordering::Relaxed);
            let mut planned = Instant::now();
            if let Pace::Open(rate) = self.pace {
                planned = started + Duration::from_secs_f64(which as f64 / rate);
                if planned > started + self.time {
                    return done;
                }
                tokio::time::sleep_until(planned.into()).await;
            }
            if started.elapsed() > self.time {
                return done;
            }
            let request = (self.request)(which);
            let sent = Instant::now();
            stream.write_all(&request).await.unwrap();
            let (status, retry_after, body) = receive(&mut stream).await;
            done.push(Done {
                which,
                status,
                retry_after,
                body,
                late: sent.saturating_duration_since(planned),
                took: sent.elapsed(),
                at: started.elapsed(),
            });
        }
    }
}

async fn receive(stream: &mut BufReader<TcpStream>) -> (u16, bool, Vec<u8>) {
    let (mut status, mut length, mut retry_after) = (0, 0, false);
    let mut line = String::new();
    loop {
        line.clear();
        assert!(stream.read_line(&mut line).await.unwrap() > 0, "the server hung up");
        let line = line.trim_end();
        if status == 0 {
            status = line.split(' ').nth(1).unwrap().parse().unwrap();
        } else if let Some((name, value)) = line.split_once(": ") {
            retry_after |= name.eq_ignore_ascii_case("retry-after");
            if name.eq_ignore_ascii_case("content-length") {
                length = value.parse().unwrap();
            }
        } else {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (status, retry_after, body)
}

/// The time below which so many of a thousand lie.
pub fn at_permille(sorted: &[Duration], permille: usize) -> Duration {
    sorted
        .get((sorted.len() * permille / 1000).min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

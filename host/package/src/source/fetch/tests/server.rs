//! A small HTTP server on a real socket that breaks off where a test wants it to.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a client asked for.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) path: String,
    headers: Vec<String>,
}

impl Request {
    /// The N of `Range: bytes=N-`.
    pub(super) fn range_start(&self) -> Option<usize> {
        let range = self.headers.iter().find_map(|h| h.strip_prefix("range: bytes="))?;
        range.strip_suffix('-')?.parse().ok()
    }
}

/// What the server answers.
pub(super) struct Reply {
    head: String,
    body: Vec<u8>,
    /// Stop after so many bytes of the body.
    stop: Option<usize>,
    /// Keep the connection open when stopping.
    stall: bool,
    endless: bool,
}

impl Reply {
    fn new(status: &str, headers: &str, body: &[u8]) -> Self {
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}\r\n");
        Self {
            head,
            body: body.to_vec(),
            stop: None,
            stall: false,
            endless: false,
        }
    }

    pub(super) fn whole(body: &[u8]) -> Self {
        Self::new("200 OK", &format!("content-length: {}\r\n", body.len()), body)
    }

    /// The part that was asked for, or all.
    pub(super) fn range(body: &[u8], start: Option<usize>) -> Self {
        let Some(start) = start else { return Self::whole(body) };
        let (part, total) = (&body[start..], body.len());
        let headers = format!(
            "content-length: {}\r\ncontent-range: bytes {start}-{}/{total}\r\n",
            part.len(),
            total - 1
        );
        Self::new("206 Partial Content", &headers, part)
    }

    pub(super) fn status(status: &str) -> Self {
        Self::new(status, "content-length: 0\r\n", b"")
    }

    pub(super) fn redirect(to: &str) -> Self {
        Self::new("302 Found", &format!("location: {to}\r\ncontent-length: 0\r\n"), b"")
    }

    /// Zeros without end, and without a length.
    pub(super) fn endless() -> Self {
        Self {
            endless: true,
            ..Self::new("200 OK", "", b"")
        }
    }

    pub(super) fn cut_after(self, bytes: usize) -> Self {
        Self {
            stop: Some(bytes),
            ..self
        }
    }

    pub(super) fn stall_after(self, bytes: usize) -> Self {
        Self {
            stop: Some(bytes),
            stall: true,
            ..self
        }
    }
}

/// Answers until it is dropped.
pub(super) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// `answer` gets the number of the request, from 0, and the request.
    pub(super) fn start(answer: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, stopped) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::<AtomicBool>::default());
        let (log, stop) = (seen.clone(), stopped.clone());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (log, stop, answer) = (log.clone(), stop.clone(), answer.clone());
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || serve(stream, &log, &stop, answer.as_ref()));
            }
        });
        Self { address, seen, stopped }
    }

    pub(super) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: TcpStream,
    log: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
    answer: &dyn Fn(usize, &Request) -> Reply,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap())
        .lines()
        .map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers = lines
        .take_while(|line| !line.is_empty())
        .map(|line| line.to_ascii_lowercase())
        .collect();
    let request = Request {
        path: first.split(' ').nth(1).unwrap_or_default().to_owned(),
        headers,
    };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    let reply = answer(number, &request);
    let body = &reply.body[..reply.stop.unwrap_or(reply.body.len()).min(reply.body.len())];
    // The client may be gone already: that is its right.
    let mut sent = stream
        .write_all(reply.head.as_bytes())
        .and_then(|()| stream.write_all(body));
    while reply.endless && sent.is_ok() {
        sent = stream.write_all(&[0; 1 << 14]);
    }
    while reply.stall && !stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

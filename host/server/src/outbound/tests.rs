//! The way out against real sockets on loopback, with names that lead where a test says.

#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

/// A receiver that answers every connection as `answer` says, and counts them.
fn server(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                head.push_str(&std::mem::take(&mut line));
            }
            answer(&head, &mut stream);
        }
    });
    (address, count)
}

fn says(text: &'static str) -> (SocketAddr, Arc<AtomicU64>) {
    server(move |_, stream| {
        let _ = stream.write_all(text.as_bytes());
    })
}

/// Names that lead where a test says, another way each time.
#[derive(Debug)]
struct Names(Mutex<Vec<Vec<SocketAddr>>>);

impl Resolver for Names {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut all = self.empty();
        for address in self.0.lock().unwrap().remove(0) {
            all.push(address);
        }
        Ok(all)
    }
}

fn out(exceptions: &[String], names: Vec<Vec<SocketAddr>>) -> Outbound {
    Outbound::with(Rules::new(exceptions).unwrap(), Names(Mutex::new(names)))
}

fn open(address: SocketAddr) -> Outbound {
    Outbound::new(&[address.to_string()]).unwrap()
}

const LIMITS: Limits = Limits {
    bytes: 1000,
    time: Duration::from_secs(20),
};

async fn fetch(out: &Outbound, url: &str) -> Result<Fetched, OutboundError> {
    out.fetch("o", url, LIMITS, Box::new(|_| Ok(()))).await
}

#[tokio::test]
async fn a_file_is_fetched_with_its_media_type() {
    let (address, _) = says("HTTP/1.1 200 OK\r\ncontent-type: Image/PNG; q=1\r\ncontent-length: 3\r\n\r\nabc");
    let fetched = fetch(&open(address), &format!("http://{address}/a?b#c")).await.unwrap();
    assert_eq!(
        (fetched.media_type.to_lowercase().as_str(), &*fetched.bytes),
        ("image/png", &b"abc"[..])
    );
}

#[tokio::test]
async fn a_name_that_leads_inside_is_never_connected_to() {
    let (address, count) = says("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let out = out(&[], vec![vec![address]; 2]);
    let url = format!("http://innocent.example:{}/", address.port());
    assert!(matches!(fetch(&out, &url).await, Err(OutboundError::NoAddress(_))));
    let posted = out.post(&url, Vec::new(), "".into(), LIMITS.time).await;
    assert!(matches!(posted, Err(OutboundError::NoAddress(_))));
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_is_looked_up_once_and_only_its_permitted_addresses_are_tried() {
    let (good, answered) = says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    let (bad, touched) = says("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad");
    // The second answer of the name server is another one, as in DNS rebinding: it is not asked for within a request.
    let out = out(&[good.to_string()], vec![vec![bad, good], vec![bad]]);
    let fetched = fetch(&out, "http://rebinding.example:8080/").await.unwrap();
    assert_eq!(fetched.bytes, b"ok");
    let again = fetch(&out, "http://rebinding.example:8080/").await;
    assert!(matches!(again, Err(OutboundError::NoAddress(_))));
    assert_eq!(
        (answered.load(Ordering::SeqCst), touched.load(Ordering::SeqCst)),
        (1, 0)
    );
}

#[tokio::test]
async fn the_systems_own_names_lead_nowhere_inside() {
    let (address, count) = says("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let out = Outbound::new(&[]).unwrap();
    for host in ["localhost", "localhost."] {
        let error = fetch(&out, &format!("http://{host}:{}/", address.port()))
            .await
            .unwrap_err();
        assert!(matches!(error, OutboundError::NoAddress(_)), "{error:?}");
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let (inside, touched) = says("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let (address, _) = server(move |_, stream| {
        let text =
            format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{inside}/\r\ncontent-length: 0\r\n\r\n");
        let _ = stream.write_all(text.as_bytes());
    });
    let out = open(address);
    let error = fetch(&out, &format!("http://{address}/")).await.unwrap_err();
    assert!(
        error.to_string().ends_with("status 307; redirects are not followed"),
        "{error}"
    );
    let status = out
        .post(&format!("http://{address}/"), Vec::new(), "{}".into(), LIMITS.time)
        .await;
    assert_eq!(status.unwrap(), 307);
    assert_eq!(touched.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_file_that_is_too_large_is_cut_off_announced_or_not() {
    let (address, _) = says("HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n");
    let error = fetch(&open(address), &format!("http://{address}/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::TooLarge(1000)), "{error:?}");
    // Without an end, and without an announcement.
    let (address, _) = server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[7; 500]).is_ok() {}
    });
    let error = fetch(&open(address), &format!("http://{address}/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::TooLarge(1000)), "{error:?}");
}

#[tokio::test]
async fn compressed_answers_are_counted_as_they_unpack() {
    // 100,000 zeros in 133 bytes.
    let mut packer = flate();
    packer.write_all(&vec![0; 100_000]).unwrap();
    let packed = packer.finish().unwrap();
    assert!(packed.len() < 900);
    let (address, _) = server(move |_, stream| {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n",
            packed.len()
        );
        let _ = stream
            .write_all(head.as_bytes())
            .and_then(|()| stream.write_all(&packed));
    });
    let error = fetch(&open(address), &format!("http://{address}/")).await.unwrap_err();
    assert!(matches!(error, OutboundError::TooLarge(1000)), "{error:?}");
}

fn flate() -> flate2::write::GzEncoder<Vec<u8>> {
    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best())
}

#[tokio::test]
async fn a_silent_or_dripping_sender_is_given_up() {
    let drip = |dripping: bool| {
        server(move |_, stream| {
            let mut stream = stream.try_clone().unwrap();
            std::thread::spawn(move || {
                let mut alive = !dripping || stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_ok();
                while alive {
                    std::thread::sleep(Duration::from_millis(20));
                    alive = stream.write_all(if dripping { b"x" } else { b"" }).is_ok() && dripping;
                }
                std::thread::sleep(Duration::from_secs(5));
            });
        })
    };
    for dripping in [true, false] {
        let (address, _) = drip(dripping);
        let time = Duration::from_millis(300);
        let limits = Limits { bytes: 1 << 20, time };
        let url = format!("http://{address}/");
        let error = open(address)
            .fetch("o", &url, limits, Box::new(|_| Ok(())))
            .await
            .unwrap_err();
        assert!(matches!(error, OutboundError::Timeout(_)), "{dripping}: {error:?}");
    }
}

#[tokio::test]
async fn whoever_pays_for_the_bytes_can_stop_them() {
    let (address, _) = says("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc");
    let charge = Box::new(|_| Err(Problem::busy("no memory", 1)));
    let error = open(address)
        .fetch("o", &format!("http://{address}/"), LIMITS, charge)
        .await
        .unwrap_err();
    assert!(matches!(error, OutboundError::Charged(_)), "{error:?}");
}

#[tokio::test]
async fn errors_tell_no_path_and_no_query() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for url in [
        format!("http://{address}/private?token=secret"),
        "http://127.0.0.1:1/private?token=secret".to_owned(),
    ] {
        let error = fetch(&open(address), &url).await.unwrap_err().to_string();
        assert!(!error.contains("secret") && !error.contains("private?"), "{error}");
    }
}

#[tokio::test]
async fn a_post_sends_its_headers_and_body_and_ignores_a_long_answer() {
    let (told, heard) = std::sync::mpsc::channel();
    let (address, _) = server(move |head, stream| {
        told.send(head.to_owned()).unwrap();
        let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
    });
    let headers = vec![("x-one", "1".to_owned())];
    let status = open(address)
        .post(&format!("http://{address}/h?q=1"), headers, "{}".into(), LIMITS.time)
        .await;
    assert_eq!(status.unwrap(), 204);
    let head = heard.recv().unwrap().to_lowercase();
    assert!(
        head.starts_with("post /h?q=1 http/1.1\r\n")
            && head.contains("x-one: 1\r\n")
            && head.contains("content-length: 2\r\n"),
        "{head}"
    );
    let (address, _) = server(|_, stream| {
        let _ = stream.write_all(b"HTTP/1.1 500 No\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let status = open(address)
        .post(&format!("http://{address}/"), Vec::new(), "{}".into(), LIMITS.time)
        .await;
    assert_eq!(status.unwrap(), 500);
}

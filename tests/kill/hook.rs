//! Who is told of ends: a receiver of webhooks that outlives every server, and what it has to have heard.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::http::Client;

/// By prediction: the ids under which it was told of, and the statuses that it was said to have.
type Heard = BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>;

/// The receiver.
pub(crate) struct Hook {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
}

impl Hook {
    /// Listens for as long as the process lives.
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let hears = Arc::clone(&heard);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = Arc::clone(&hears);
                std::thread::spawn(move || hear(stream, &heard));
            }
        });
        Self { address, heard }
    }

    /// Where the server posts.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/told", self.address)
    }

    /// Waits until the server has nothing more to tell an owner.
    pub(crate) fn is_told_everything(&self, server: SocketAddr, token: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        let mut client = Client::new(server, token);
        loop {
            let reply = client.get("/v1/webhooks/deliveries?state=pending").unwrap();
            let pending = reply.json()["results"].as_array().unwrap().len();
            if pending == 0 {
                return;
            }
            assert!(Instant::now() < until, "{pending} webhooks are still on their way");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every row that wanted to be told of was: at least once, under one id, with the end that the row has. How many.
    pub(crate) fn heard_every_end(&self, database: &Path) -> usize {
        let heard = self.heard.lock().unwrap();
        let database = rusqlite::Connection::open(database).unwrap();
        let mut query = database
            .prepare("SELECT id, status FROM predictions WHERE webhook IS NOT NULL")
            .unwrap();
        let rows = query
            .query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, u8>(1)?)))
            .unwrap();
        let mut count = 0;
        for row in rows {
            let (id, status) = row.unwrap();
            let (ids, statuses) = heard.get(&id).unwrap_or_else(|| panic!("nobody was told of {id}"));
            assert_eq!(ids.len(), 1, "{id} was told of under one id: {ids:?}");
            let status = ["starting", "processing", "succeeded", "failed", "canceled"][usize::from(status)];
            assert_eq!(
                statuses.iter().collect::<Vec<_>>(),
                [status],
                "{id} ended once, so it is told"
            );
            count += 1;
        }
        count
    }
}

/// Hears one webhook out. A server that is killed meanwhile tells it again.
fn hear(stream: TcpStream, heard: &Mutex<Heard>) -> Option<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut length, mut name) = (0, String::new());
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((header, value)) = line.trim_end().split_once(':') else {
            if line.trim_end().is_empty() {
                break;
            }
            continue;
        };
        match header.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok()?,
            "webhook-id" => value.trim().clone_into(&mut name),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let told: Value = serde_json::from_slice(&body).ok()?;
    {
        let mut heard = heard.lock().ok()?;
        let (ids, statuses) = heard.entry(told["id"].as_str()?.to_owned()).or_default();
        ids.insert(name);
        statuses.insert(told["status"].as_str()?.to_owned());
    }
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    reader.get_mut().write_all(answer).ok()
}

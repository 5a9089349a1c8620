//! What the server has promised, and whether it keeps it.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::Client;
use crate::support::random::Random;

/// How long everything may take to end, once the server is left alone.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a row says that the server has given up.
const GIVEN_UP: &str = "it is not tried again";

/// A caller's own name for a request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Key(String),
    Id(String),
}

/// A request for a prediction.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) owner: usize,
    pub(crate) input: String,
    pub(crate) name: Option<Name>,
}

impl Made {
    pub(crate) fn new(owner: usize, input: String, name: Option<Name>) -> Self {
        Self { owner, input, name }
    }

    /// Method, path, and idempotency key.
    pub(crate) fn place(&self) -> (&'static str, String, Option<String>) {
        match &self.name {
            Some(Name::Id(id)) => ("PUT", format!("/v1/predictions/{id}"), None),
            Some(Name::Key(key)) => ("POST", "/v1/predictions".to_owned(), Some(key.clone())),
            None => ("POST", "/v1/predictions".to_owned(), None),
        }
    }
}

/// A prediction that was acknowledged.
struct Promised {
    input: String,
    /// Whether somebody asked to cancel it.
    cancelling: bool,
    /// How it ended, once that was seen.
    end: Option<Value>,
}

pub(crate) struct Book {
    /// Tokens.
    pub(crate) owners: Vec<String>,
    pub(crate) version: String,
    /// Where ends are told.
    pub(crate) hook: String,
    /// By owner and id.
    promised: BTreeMap<(usize, String), Promised>,
    /// What was sent under a name, whether it was answered or not, and the id that it stands for.
    named: Vec<(Made, Option<String>)>,
    by_name: HashMap<(usize, Name), usize>,
    /// Ids in the order of their acknowledgement.
    recent: Vec<(usize, String)>,
}

impl Book {
    pub(crate) fn new(owners: Vec<String>, version: String, hook: String) -> Self {
        Self {
            owners,
            version,
            hook,
            promised: BTreeMap::new(),
            named: Vec::new(),
            by_name: HashMap::new(),
            recent: Vec::new(),
        }
    }

    /// What is sent: the same whenever it is sent again. Some want to be told of the end.
    pub(crate) fn body(&self, made: &Made) -> String {
        let mut body = json!({"version": self.version, "input": {"a": made.input}});
        if made.input.ends_with(['0', '1', '2', '3', '4', '5']) {
            body["webhook"] = self.hook.clone().into();
            body["webhook_events_filter"] = json!(["completed"]);
        }
        body.to_string()
    }

    pub(crate) fn acknowledged(&self) -> usize {
        self.promised.len()
    }

    /// A request under a name is about to be sent.
    pub(crate) fn asked(&mut self, made: Made) {
        if let Some(name) = &made.name {
            self.by_name.insert((made.owner, name.clone()), self.named.len());
        }
        self.named.push((made, None));
    }

    /// A request was answered with a prediction.
    pub(crate) fn acknowledge(&mut self, made: Made, object: &Value) {
        let id = object["id"].as_str().unwrap().to_owned();
        if let Some(name) = &made.name {
            let known = &mut self.named[self.by_name[&(made.owner, name.clone())]].1;
            assert!(
                known.as_ref().is_none_or(|known| *known == id),
                "{name:?} made {known:?} and {id}"
            );
            *known = Some(id.clone());
        }
        let key = (made.owner, id.clone());
        if !self.promised.contains_key(&key) {
            self.recent.push(key.clone());
        }
        self.promised.entry(key).or_insert(Promised {
            input: made.input,
            cancelling: false,
            end: None,
        });
        self.seen(made.owner, &id, object);
    }

    /// Somebody is about to cancel it.
    pub(crate) fn cancelling(&mut self, owner: usize, id: &str) {
        if let Some(promised) = self.promised.get_mut(&(owner, id.to_owned())) {
            promised.cancelling = true;
        }
    }

    /// A prediction was shown. It is the right one, its end is a right one, and an end never changes.
    pub(crate) fn seen(&mut self, owner: usize, id: &str, object: &Value) {
        let promised = self.promised.get_mut(&(owner, id.to_owned())).unwrap();
        assert_eq!(object["input"], json!({"a": promised.input}), "{object}");
        let status = object["status"].as_str().unwrap();
        // A reply that was held until the end may overtake one that was not: only what is asked for later is compared.
        if matches!(status, "starting" | "processing") {
            return;
        }
        check_end(&promised.input, promised.cancelling, status, object);
        let end = ["status", "output", "error", "logs", "completed_at", "metrics"].map(|name| object[name].clone());
        let end = Value::from(end.to_vec());
        match &promised.end {
            Some(before) => assert_eq!(*before, end, "{id} has changed after its end"),
            None => promised.end = Some(end),
        }
    }

    /// One that was acknowledged not long ago, mostly.
    pub(crate) fn some_recent(&self, owner: usize, random: &mut Random) -> Option<String> {
        let back = if random.below(4) == 0 { self.recent.len() } else { 30 };
        let start = self.recent.len().saturating_sub(back);
        let (of, id) = random.pick(&self.recent[start..])?;
        (*of == owner).then(|| id.clone())
    }

    pub(crate) fn some_named(&self, owner: usize, random: &mut Random) -> Option<Made> {
        let (made, _) = random.pick(&self.named)?;
        (made.owner == owner).then(|| made.clone())
    }

    fn clients(&self, address: SocketAddr) -> Vec<Client> {
        self.owners.iter().map(|token| Client::new(address, token)).collect()
    }

    /// Right after a start: every promise that has not been seen kept is there, and some of those that were are as they were. Some
    /// of what has not ended is cancelled, whether it has begun again or not.
    pub(crate) fn everything_exists(&mut self, address: SocketAddr, random: &mut Random, round: usize) {
        let mut clients = self.clients(address);
        let keys: Vec<_> = self
            .promised
            .iter()
            .filter(|(_, promised)| promised.end.is_none() || random.below(20) == 0)
            .map(|(key, promised)| (key.clone(), promised.end.is_none()))
            .collect();
        for ((owner, id), open) in keys {
            let client = &mut clients[owner];
            let cancel = open && random.below(10) == 0;
            let reply = if cancel {
                self.cancelling(owner, &id);
                client.send("POST", &format!("/v1/predictions/{id}/cancel"), &[], b"{}")
            } else {
                client.get(&format!("/v1/predictions/{id}"))
            };
            let reply = reply.unwrap();
            assert_eq!(
                reply.status, 200,
                "round {round}: {id} was acknowledged and is missing: {reply:?}"
            );
            self.seen(owner, &id, &reply.json());
        }
    }

    /// Waits for the end of every promise.
    pub(crate) fn everything_ends(&mut self, address: SocketAddr) {
        let until = Instant::now() + PATIENCE;
        let mut clients = self.clients(address);
        loop {
            let open = self.promised.iter().filter(|(_, promised)| promised.end.is_none());
            let open: Vec<_> = open.map(|(key, _)| key.clone()).collect();
            if open.is_empty() {
                return;
            }
            for (owner, id) in &open {
                let reply = clients[*owner].get(&format!("/v1/predictions/{id}")).unwrap();
                assert_eq!(
                    reply.status,
                    200,
                    "{id} was acknowledged and is missing: {}",
                    reply.text()
                );
                self.seen(*owner, id, &reply.json());
            }
            assert!(Instant::now() < until, "{open:?} never ended");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whatever was sent under a name is sent once more: it makes one prediction in all, and it is the one that was told.
    pub(crate) fn retries_find_what_they_made(&mut self, address: SocketAddr) {
        let mut clients = self.clients(address);
        for (made, _) in self.named.clone() {
            let (method, path, key) = made.place();
            let headers: Vec<_> = key.as_deref().map(|key| ("idempotency-key", key)).into_iter().collect();
            let body = self.body(&made);
            loop {
                let reply = clients[made.owner]
                    .send(method, &path, &headers, body.as_bytes())
                    .unwrap();
                if matches!(reply.status, 429 | 503) {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                assert!((200..300).contains(&reply.status), "{made:?}: {reply:?}");
                self.acknowledge(made, &reply.json());
                break;
            }
        }
    }

    /// Waits until the server runs nothing that it did not tell of.
    pub(crate) fn nothing_runs_on(&self, address: SocketAddr) {
        let until = Instant::now() + PATIENCE;
        for client in &mut self.clients(address) {
            // What was sent by somebody who left may still be on its way in: nothing is open for a while, then.
            let mut quiet = 0;
            while quiet < 20 {
                let list = client.get("/v1/predictions?status=starting").unwrap().json();
                let open = list["results"].as_array().unwrap();
                quiet = if open.is_empty() { quiet + 1 } else { 0 };
                assert!(Instant::now() < until, "these never end: {list}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Whether a prediction of this input may end like this.
fn check_end(input: &str, cancelling: bool, status: &str, object: &Value) {
    let error = object["error"].as_str().unwrap_or_default();
    let right = match (status, &input[..1]) {
        ("succeeded", "e") => object["output"] == json!({"a": input}),
        ("failed", _) if error.contains(GIVEN_UP) => true,
        ("failed", "f") => error.contains("the guest says no"),
        ("failed", "t") => !error.is_empty(),
        ("canceled", _) => cancelling,
        _ => false,
    };
    assert!(right, "{input} ended so: {object}");
}

/// What the database says at the very end.
pub(crate) struct OnDisk {
    pub(crate) rows: i64,
    pub(crate) begun_again: i64,
    pub(crate) most_attempts: i64,
    pub(crate) given_up: i64,
}

/// Looks into the database of a server that has stopped: it agrees with itself and with the book.
pub(crate) fn on_disk(path: &Path, book: &Book) -> OnDisk {
    let database = rusqlite::Connection::open(path).unwrap();
    let number = |sql: &str| database.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(
        database
            .query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
            .unwrap(),
        "ok"
    );
    let rows = number("SELECT count(*) FROM predictions");
    assert_eq!(
        number("SELECT count(*) FROM predictions WHERE status < 2"),
        0,
        "every row has ended"
    );
    assert_eq!(
        number("SELECT count(*) FROM predictions WHERE completed_at IS NULL"),
        0,
        "and says when"
    );
    // Every input was sent with a nonce of its own, and again only under the same name.
    assert_eq!(
        number("SELECT count(*) - count(DISTINCT input) FROM predictions"),
        0,
        "nothing was made twice"
    );
    assert_eq!(
        number("SELECT sum(predictions) FROM usage"),
        rows,
        "each row is counted once"
    );
    for column in ["compute_us", "billed_ms", "cost"] {
        let of = |table: &str| number(&format!("SELECT sum({column}) FROM {table}"));
        assert_eq!(of("usage"), of("predictions"), "{column} agrees");
    }
    let mut query = database
        .prepare("SELECT status, output, error FROM predictions WHERE owner = ?1 AND id = ?2")
        .unwrap();
    for ((owner, id), promised) in &book.promised {
        let found = query.query_row((format!("owner-{owner}"), id), |row| {
            let names = ["starting", "processing", "succeeded", "failed", "canceled"];
            let output: Option<String> = row.get(1)?;
            let output = output.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
            Ok(json!([
                names[usize::from(row.get::<_, u8>(0)?)],
                output,
                row.get::<_, Option<String>>(2)?
            ]))
        });
        let end = promised.end.as_ref().unwrap();
        assert_eq!(
            found.unwrap(),
            json!([end[0], end[1], end[2]]),
            "{id} on disk is what was shown"
        );
    }
    let mut query = database
        .prepare("SELECT id FROM idempotency WHERE owner = ?1 AND key = ?2")
        .unwrap();
    for (made, id) in &book.named {
        if let Some(Name::Key(key)) = &made.name {
            let found = query.query_row((format!("owner-{}", made.owner), key), |row| row.get::<_, String>(0));
            assert_eq!(found.ok().as_ref(), id.as_ref(), "{key} stands for what was told");
        }
    }
    OnDisk {
        rows,
        begun_again: number("SELECT count(*) FROM predictions WHERE attempt > 1"),
        most_attempts: number("SELECT max(attempt) FROM predictions"),
        given_up: number(&format!(
            "SELECT count(*) FROM predictions WHERE error LIKE '%{GIVEN_UP}%'"
        )),
    }
}

//! The callers: each asks for whatever comes to its mind until the server dies under it.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::book::{Book, Made, Name};
use crate::support::http::{Client, Reply};
use crate::support::random::Random;

/// Calls until `over`, or until the server is gone.
pub(crate) fn call(address: SocketAddr, caller: usize, mut random: Random, book: &Mutex<Book>, over: &AtomicBool) {
    let owner = caller % book.lock().unwrap().owners.len();
    let token = book.lock().unwrap().owners[owner].clone();
    let mut client = Client::new(address, &token);
    while !over.load(Ordering::Relaxed) {
        let went_well = match random.below(20) {
            0..7 => create(&mut client, owner, &mut random, book, None, false),
            7..10 => create(&mut client, owner, &mut random, book, None, true),
            10..12 => {
                let name = Name::Key(format!("{:016x}", random.next()));
                create(&mut client, owner, &mut random, book, Some(name), false)
            }
            12..14 => {
                let name = Name::Id(format!("id-{:016x}", random.next()));
                let wait = random.below(2) == 0;
                create(&mut client, owner, &mut random, book, Some(name), wait)
            }
            14 => repeat(&mut client, owner, &mut random, book),
            15 | 16 => cancel(&mut client, owner, &mut random, book),
            17 => leave(&client, owner, &mut random, book),
            _ => look(&mut client, owner, &mut random, book),
        };
        if !went_well {
            return;
        }
        std::thread::sleep(Duration::from_millis(random.below(8) as u64));
    }
}

/// An input that nobody has sent before: mostly short work, some of it long, some of it in vain.
fn input(random: &mut Random) -> String {
    let what = match random.below(12) {
        0 => 'f',
        1 => 't',
        _ => 'e',
    };
    let ms = match random.below(12) {
        0 => 100 + random.below(200),
        1..4 => 10 + random.below(30),
        _ => random.below(5),
    };
    format!("{what}{ms:03}-{:016x}", random.next())
}

fn create(
    client: &mut Client,
    owner: usize,
    random: &mut Random,
    book: &Mutex<Book>,
    name: Option<Name>,
    wait: bool,
) -> bool {
    let made = Made::new(owner, input(random), name);
    if made.name.is_some() {
        book.lock().unwrap().asked(made.clone());
    }
    send(client, made, wait, book)
}

/// Sends what was sent under the same name before, perhaps to an earlier process, perhaps without an answer.
fn repeat(client: &mut Client, owner: usize, random: &mut Random, book: &Mutex<Book>) -> bool {
    let named = book.lock().unwrap().some_named(owner, random);
    match named {
        Some(made) => send(client, made, random.below(2) == 0, book),
        None => true,
    }
}

fn send(client: &mut Client, made: Made, wait: bool, book: &Mutex<Book>) -> bool {
    let (method, path, key) = made.place();
    let mut headers = Vec::new();
    headers.extend(key.as_deref().map(|key| ("idempotency-key", key)));
    headers.extend(wait.then_some(("prefer", "wait=5")));
    let body = book.lock().unwrap().body(&made);
    match client.send(method, &path, &headers, body.as_bytes()) {
        Ok(reply) => {
            note(book, made, &reply);
            true
        }
        Err(_) => false,
    }
}

/// Writes down what a reply has promised.
fn note(book: &Mutex<Book>, made: Made, reply: &Reply) {
    match reply.status {
        200..300 => book.lock().unwrap().acknowledge(made, &reply.json()),
        429 | 503 => assert!(reply.header("retry-after").is_some(), "{reply:?}"),
        _ => panic!("{made:?}: {reply:?}"),
    }
}

/// Asks and goes away: what becomes of it is the server's business, but something has to.
fn leave(client: &Client, owner: usize, random: &mut Random, book: &Mutex<Book>) -> bool {
    let name = (random.below(2) == 0).then(|| Name::Key(format!("{:016x}", random.next())));
    let made = Made::new(owner, input(random), name);
    if made.name.is_some() {
        book.lock().unwrap().asked(made.clone());
    }
    let (method, path, key) = made.place();
    let mut headers = Vec::new();
    headers.extend(key.as_deref().map(|key| ("idempotency-key", key)));
    headers.extend((random.below(3) == 0).then_some(("prefer", "wait")));
    let stay = Duration::from_micros(random.below(4000) as u64);
    let body = book.lock().unwrap().body(&made);
    client
        .send_and_leave(method, &path, &headers, body.as_bytes(), stay)
        .is_ok()
}

fn cancel(client: &mut Client, owner: usize, random: &mut Random, book: &Mutex<Book>) -> bool {
    let Some(id) = book.lock().unwrap().some_recent(owner, random) else {
        return true;
    };
    book.lock().unwrap().cancelling(owner, &id);
    match client.send("POST", &format!("/v1/predictions/{id}/cancel"), &[], b"{}") {
        Ok(reply) => {
            assert_eq!(reply.status, 200, "{reply:?}");
            book.lock().unwrap().seen(owner, &id, &reply.json());
            true
        }
        Err(_) => false,
    }
}

fn look(client: &mut Client, owner: usize, random: &mut Random, book: &Mutex<Book>) -> bool {
    let Some(id) = book.lock().unwrap().some_recent(owner, random) else {
        return true;
    };
    match client.get(&format!("/v1/predictions/{id}")) {
        Ok(reply) => {
            assert_eq!(
                reply.status,
                200,
                "what was acknowledged is there: {id} {}",
                reply.text()
            );
            book.lock().unwrap().seen(owner, &id, &reply.json());
            true
        }
        Err(_) => false,
    }
}

//! Webhooks: what became of a prediction, posted to a URL of the caller's, signed after Standard Webhooks 1.0.
//!
//! The end of a prediction is put into an outbox by the transaction that makes it true, and sent until a receiver has it or a day's
//! worth of attempts is over (`sender`); what happens before the end is told at best once (`teller`).

pub(crate) mod records;
mod schedule;
mod sender;
mod sign;
mod teller;
pub(crate) mod throttle;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use url::Url;

use crate::config::Config;
use crate::ids;
use crate::metrics::Metrics;
use crate::outbound::{Outbound, OutboundError};
use crate::problem::Problem;
use crate::schema::FieldError;
use crate::secrets::Secrets;
use crate::store::{Store, StoreError, now_ms};
use records::{Delivery, Filter};
use sign::Secret;
use teller::{Note, Word};

/// Old deliveries removed in one transaction.
const SWEEP: usize = 500;

/// All webhooks of a server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Deliveries {
    store: Arc<Store>,
    secrets: Secrets,
    outbound: Outbound,
    metrics: Arc<Metrics>,
    timeout: Duration,
    log: Duration,
    wake: Arc<Notify>,
    words: mpsc::Sender<Word>,
    /// Until the teller takes it.
    heard: Arc<Mutex<Option<mpsc::Receiver<Word>>>>,
    /// KiB of bodies that may wait to be told.
    memory: Arc<Semaphore>,
}

/// What is posted.
#[derive(Clone, Debug)]
struct Message {
    id: String,
    owner: String,
    url: String,
    body: Arc<str>,
}

impl Deliveries {
    /// Nothing is sent before [`Deliveries::start`].
    pub(crate) fn new(
        config: &Config,
        store: Arc<Store>,
        secrets: Secrets,
        outbound: Outbound,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (words, heard) = mpsc::channel(teller::WAITING);
        Self {
            store,
            secrets,
            outbound,
            metrics,
            timeout: config.webhook_timeout,
            log: config.delivery_log,
            wake: Arc::default(),
            words,
            heard: Arc::new(Mutex::new(Some(heard))),
            memory: Arc::new(Semaphore::new(teller::MEMORY_KIB)),
        }
    }

    /// Sends what is due, from now on until the tasks are aborted. Only the first call starts anything.
    pub(crate) fn start(&self) -> Vec<JoinHandle<()>> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner).take();
        let tasks = heard.map(|heard| {
            [
                tokio::spawn(sender::run(self.clone())),
                tokio::spawn(teller::run(self.clone(), heard)),
            ]
        });
        tasks.into_iter().flatten().collect()
    }

    /// Checks a URL that a caller wants webhooks at, as far as that goes without looking its name up.
    ///
    /// # Errors
    /// 422 naming the field `webhook`.
    pub(crate) fn check_url(&self, url: &str) -> Result<Url, Problem> {
        self.outbound.check(url).map_err(|e| {
            let (field, message) = ("webhook".to_owned(), e.to_string());
            Problem::invalid_input(&[FieldError { field, message }])
        })
    }

    /// Says that something was put into the outbox, or is due for another reason.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Says that a prediction's end was put into the outbox: it is sent at once, and what waits to be told of it no more.
    pub(crate) fn finished(&self, owner: &str, prediction_id: &str) {
        // A teller with no ear left tells at most what is out of date.
        let _ = self.words.try_send(Word::Finished(format!("{owner} {prediction_id}")));
        self.wake();
    }

    /// Tells of an event that is soon out of date (`start`, `output`, `logs`): once, in order within the prediction, if there is
    /// room. Never blocks; may be called from any thread. The caller sees to it that it is not too often (see [`throttle`]).
    pub(crate) fn tell(&self, owner: &str, prediction_id: &str, url: &str, event: &'static str, body: String) {
        let kib = u32::try_from(body.len() / 1024 + 1).unwrap_or(u32::MAX);
        let Ok(memory) = Arc::clone(&self.memory).try_acquire_many_owned(kib) else {
            return self.metrics.outside.delivery("lost");
        };
        let id = ids::random();
        let message = Message {
            id: format!("msg_{}", id.to_str().unwrap_or(event)),
            owner: owner.to_owned(),
            url: url.to_owned(),
            body: body.into(),
        };
        let note = Note {
            prediction: format!("{owner} {prediction_id}"),
            message,
            memory,
        };
        if self.words.try_send(Word::Tell(note)).is_err() {
            self.metrics.outside.delivery("lost");
        }
    }

    /// What an owner's webhooks are signed with: `whsec_…`.
    pub(crate) fn secret(&self, owner: &str) -> String {
        Secret::of(&self.secrets, owner).text()
    }

    /// One attempt to post a message, signed now.
    async fn send(&self, message: &Message) -> Result<u16, OutboundError> {
        let timestamp = now_ms().div_euclid(1000);
        let secret = Secret::of(&self.secrets, &message.owner);
        let headers = vec![
            ("content-type", "application/json".to_owned()),
            ("webhook-id", message.id.clone()),
            ("webhook-timestamp", timestamp.to_string()),
            ("webhook-signature", secret.sign(&message.id, timestamp, &message.body)),
        ];
        let body = Arc::clone(&message.body);
        self.outbound.post(&message.url, headers, body, self.timeout).await
    }

    /// One delivery of an owner's.
    pub(crate) async fn get(&self, owner: &str, id: &str) -> Result<Delivery, Problem> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        let found = self.store.read(move |c| records::get(c, &owner, &id)).await;
        found
            .map_err(Problem::internal)?
            .ok_or_else(|| Problem::not_found("this delivery"))
    }

    /// Deliveries of an owner's, newest first, without their bodies.
    pub(crate) async fn list(&self, filter: Filter) -> Result<Vec<Delivery>, Problem> {
        let found = self.store.read(move |c| records::list(c, &filter)).await;
        found.map_err(Problem::internal)
    }

    /// Sends a delivery of an owner's again, now, under its id.
    pub(crate) async fn redeliver(&self, owner: &str, id: &str) -> Result<Delivery, Problem> {
        let (asker, asked) = (owner.to_owned(), id.to_owned());
        let there = self
            .store
            .write(move |c| records::again(c, &asker, &asked, now_ms()))
            .await;
        if !there.map_err(Problem::internal)? {
            return Err(Problem::not_found("this delivery"));
        }
        self.wake();
        self.get(owner, id).await
    }

    /// Forgets what ended long ago.
    pub(crate) async fn sweep(&self) -> Result<(), StoreError> {
        let log = i64::try_from(self.log.as_millis()).unwrap_or(i64::MAX);
        let before = now_ms().saturating_sub(log);
        while self.store.write(move |c| records::forget(c, before, SWEEP)).await? == SWEEP {}
        Ok(())
    }
}

#[cfg(test)]
mod tests;

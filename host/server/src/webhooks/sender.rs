//! Sends what is due, in turns between owners and receivers, and notes what became of it. A receiver that is dead or slow holds up
//! its own webhooks only.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinSet};

use super::records::{self, Due};
use super::schedule::{Verdict, judge};
use super::{Deliveries, Message};
use crate::outbound::shown;
use crate::store::{StoreError, now_ms};

/// Deliveries at once; of one owner; and to one target of an owner.
const AT_ONCE: usize = 48;
const OF_OWNER: usize = 12;
const TO_TARGET: usize = 4;

/// How long nothing is looked for if nobody says that there is something.
const REST: Duration = Duration::from_secs(30);

/// After the database failed.
const PAUSE: Duration = Duration::from_secs(1);

/// What is on its way now.
#[derive(Default)]
struct Flying(HashMap<Id, Due>);

impl Flying {
    fn takes(&self, due: &Due) -> bool {
        let owned = || self.0.values().filter(|other| other.owner == due.owner);
        self.0.len() < AT_ONCE
            && !owned().any(|other| other.id == due.id)
            && owned().count() < OF_OWNER
            && owned().filter(|other| other.target == due.target).count() < TO_TARGET
    }
}

/// Sends for as long as it is polled. What is on its way when it is dropped is sent again after the next start.
pub(super) async fn run(deliveries: Deliveries) {
    let (mut flying, mut sending) = (Flying::default(), JoinSet::new());
    loop {
        let rest = match look(&deliveries).await {
            Ok((due, rest)) => {
                for due in due {
                    if flying.takes(&due) {
                        let task = sending.spawn(deliver(deliveries.clone(), due.id.clone()));
                        flying.0.insert(task.id(), due);
                    }
                }
                rest
            }
            Err(e) => {
                tracing::warn!("due webhooks could not be looked for: {e}");
                PAUSE
            }
        };
        tokio::select! {
            () = deliveries.wake.notified() => {}
            Some(done) = sending.join_next_with_id(), if !sending.is_empty() => {
                flying.0.remove(&done.map_or_else(|e| e.id(), |(id, ())| id));
            }
            () = tokio::time::sleep(rest) => {}
        }
        while let Some(done) = sending.try_join_next_with_id() {
            flying.0.remove(&done.map_or_else(|e| e.id(), |(id, ())| id));
        }
    }
}

/// What is due, and how long it is until more is.
async fn look(deliveries: &Deliveries) -> Result<(Vec<Due>, Duration), StoreError> {
    let now = now_ms();
    let query = move |c: &rusqlite::Connection| {
        let due = records::due(c, now, TO_TARGET, OF_OWNER, 16 * AT_ONCE)?;
        Ok((due, records::next_due(c, now)?))
    };
    let (due, next) = deliveries.store.read(query).await?;
    let until = |next: i64| Duration::from_millis(u64::try_from(next.saturating_sub(now)).unwrap_or(0));
    Ok((due, next.map_or(REST, until).min(REST)))
}

async fn deliver(deliveries: Deliveries, id: String) {
    if let Err(e) = attempt(&deliveries, &id).await {
        tracing::warn!(id, "a webhook's attempt could not be noted: {e}");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt(deliveries: &Deliveries, id: &str) -> Result<(), StoreError> {
    let wanted = id.to_owned();
    let Some(delivery) = deliveries.store.read(move |c| records::pending(c, &wanted)).await? else {
        return Ok(());
    };
    let message = Message {
        id: delivery.id.clone(),
        owner: delivery.owner,
        url: delivery.url,
        body: Arc::from(delivery.body),
    };
    let outcome = deliveries.send(&message).await;
    let verdict = judge(&outcome, delivery.attempts.saturating_add(1), crate::ids::seed());
    let (status, error) = match outcome {
        Ok(status) => (Some(status), None),
        Err(e) => (None, Some(e.to_string())),
    };
    let word = match verdict {
        Verdict::Delivered => "delivered",
        Verdict::Again(_) => "failed",
        Verdict::Dead => "dead",
        Verdict::Skipped => "skipped",
    };
    deliveries.metrics.outside.delivery(word);
    if verdict != Verdict::Delivered {
        let url = shown(&message.url);
        tracing::info!(
            id,
            url,
            status,
            error,
            attempts = delivery.attempts + 1,
            "a webhook was not delivered: {word}"
        );
    }
    let id = delivery.id;
    let note = move |c: &rusqlite::Connection| records::attempted(c, &id, &verdict, status, error.as_deref(), now_ms());
    deliveries.store.write(note).await
}

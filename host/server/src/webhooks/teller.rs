//! Webhooks of events that are soon out of date (`start`, `output`, `logs`): sent once, in order within a prediction, and left out
//! where a receiver is too slow for them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{Id, JoinSet};

use super::{Deliveries, Message};
use crate::keyed::Keyed;
use crate::outbound::shown;

/// Events that may wait to be looked at.
pub(super) const WAITING: usize = 1024;

/// Memory for bodies that wait, in KiB.
pub(super) const MEMORY_KIB: usize = 64 << 10;

/// Events of one prediction that may wait; the oldest is left out for a newer one.
const OF_PREDICTION: usize = 8;

/// Events told at once, and of one owner.
const AT_ONCE: usize = 16;
const OF_OWNER: usize = 4;

/// What the teller is told.
pub(super) enum Word {
    /// Tell this.
    Tell(Note),
    /// This prediction, as `OWNER ID`, has ended: what waits of it is out of date.
    Finished(String),
}

/// One event.
pub(super) struct Note {
    /// As `OWNER ID`: two owners may use one id.
    pub(super) prediction: String,
    pub(super) message: Message,
    pub(super) memory: OwnedSemaphorePermit,
}

/// Tells for as long as it is polled.
pub(super) async fn run(deliveries: Deliveries, mut words: mpsc::Receiver<Word>) {
    let (places, owners) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(Keyed::new(OF_OWNER)));
    let mut speaking: JoinSet<()> = JoinSet::new();
    let mut of_task: HashMap<Id, String> = HashMap::new();
    let mut waiting: HashMap<String, VecDeque<Note>> = HashMap::new();
    loop {
        let next = tokio::select! {
            word = words.recv() => match word {
                None => return,
                Some(Word::Finished(prediction)) => {
                    if let Some(queue) = waiting.get_mut(&prediction) {
                        queue.clear();
                    }
                    None
                }
                Some(Word::Tell(note)) => match waiting.get_mut(&note.prediction) {
                    Some(queue) => {
                        if queue.len() >= OF_PREDICTION {
                            queue.pop_front();
                            deliveries.metrics.outside.delivery("lost");
                        }
                        queue.push_back(note);
                        None
                    }
                    None => {
                        waiting.insert(note.prediction.clone(), VecDeque::new());
                        Some(note)
                    }
                },
            },
            Some(done) = speaking.join_next_with_id(), if !speaking.is_empty() => {
                let id = done.map_or_else(|e| e.id(), |(id, ())| id);
                let prediction = of_task.remove(&id).unwrap_or_default();
                let next = waiting.get_mut(&prediction).and_then(VecDeque::pop_front);
                if next.is_none() {
                    waiting.remove(&prediction);
                }
                next
            }
        };
        if let Some(note) = next {
            let prediction = note.prediction.clone();
            let task = speaking.spawn(speak(
                deliveries.clone(),
                note,
                Arc::clone(&places),
                Arc::clone(&owners),
            ));
            of_task.insert(task.id(), prediction);
        }
    }
}

async fn speak(deliveries: Deliveries, note: Note, places: Arc<Semaphore>, owners: Arc<Keyed>) {
    let _own = owners.acquire(&note.message.owner).await;
    let _place = places.acquire_owned().await;
    let told = matches!(deliveries.send(&note.message).await, Ok(200..300));
    deliveries.metrics.outside.delivery(if told { "told" } else { "lost" });
    if !told {
        tracing::debug!(url = shown(&note.message.url), "an event was not told");
    }
    drop(note.memory);
}

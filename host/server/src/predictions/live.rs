//! A prediction while somebody may watch it: its state in memory, where its run writes and everybody else reads and waits.
//!
//! A reader costs nothing while nothing happens and needs no queue: it remembers how far it has read ([`Position`]) and takes
//! what is new when it is told that something is. So a slow reader holds up nobody and holds no memory.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::Key;
use super::record::Prediction;
use super::status::Status;
use crate::engine::{Cancel, Event, OutputFile};
use crate::store::now_ms;

/// Why a prediction is stopped before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Its caller said so, or went away while it waited for the reply.
    Caller,
    /// It would be over too late.
    Deadline,
}

impl Reason {
    /// What is told as the prediction's error; nothing for what the caller asked for itself.
    pub(crate) fn error(self) -> Option<&'static str> {
        match self {
            Self::Caller => None,
            Self::Deadline => Some("deadline exceeded"),
        }
    }
}

/// How far somebody has read: items of the output, and bytes of the log. Text form `ITEMS:BYTES`, the id of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) items: usize,
    pub(crate) logs: usize,
}

impl Position {
    /// Reads an event's id.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (items, logs) = text.trim().split_once(':')?;
        Some(Self {
            items: items.parse().ok()?,
            logs: logs.parse().ok()?,
        })
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.items, self.logs)
    }
}

/// What has been added since a position.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// JSON of each new item of the output.
    pub(crate) items: Vec<Arc<str>>,
    /// New text of the log.
    pub(crate) logs: String,
    /// The end, once there is no more to read before it.
    pub(crate) end: Option<(Status, Option<String>)>,
}

/// See the module.
pub(crate) struct Live {
    /// Whose it is, and its id.
    pub(crate) key: Key,
    /// Stops the guest.
    pub(crate) cancel: Cancel,
    state: Mutex<State>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

struct State {
    row: Prediction,
    /// Items of an output that grows, as they came.
    items: Vec<Arc<str>>,
    /// Whether the items are the output's own, however few: then it is no item itself.
    listed: bool,
    /// Whether the run makes files: then its items are held until those that they refer to are kept.
    makes_files: bool,
    /// Files that were made, and items that came behind the first of them, until they are taken.
    made: Vec<OutputFile>,
    held: Vec<String>,
    /// Whether a lane has it.
    begun: bool,
    /// Whether its row is on disk.
    recorded: bool,
    /// Whether its end is left to the next start of the server.
    left: bool,
    stop: Option<Reason>,
}

impl Live {
    /// One that begins; a lane has it already if the row says so.
    pub(crate) fn new(row: Prediction) -> Arc<Self> {
        Arc::new(Self {
            key: (Arc::clone(&row.owner), Arc::clone(&row.id)),
            cancel: Cancel::default(),
            changed: watch::Sender::new(0),
            state: Mutex::new(State {
                begun: row.status != Status::Starting,
                recorded: false,
                left: false,
                row,
                items: Vec::new(),
                listed: false,
                makes_files: false,
                made: Vec::new(),
                held: Vec::new(),
                stop: None,
            }),
        })
    }

    /// The state is whole whenever the lock is free.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// A lane takes it; no if it was stopped before.
    pub(crate) fn begin(&self) -> bool {
        let mut state = self.lock();
        if state.stop.is_some() || self.cancel.is_cancelled() || state.row.status.is_terminal() {
            return false;
        }
        state.begun = true;
        state.row.status = Status::Processing;
        state.row.started_at = Some(now_ms());
        drop(state);
        self.tell();
        true
    }

    /// It is begun again, which is on disk.
    pub(crate) fn set_attempt(&self, attempt: u32) {
        self.lock().row.attempt = attempt;
    }

    /// The guest said something.
    pub(crate) fn hear(&self, event: Event) {
        let mut state = self.lock();
        match event {
            Event::Item(json) if state.makes_files => state.held.push(json),
            Event::Item(json) => state.items.push(json.into()),
            Event::File(file) => {
                state.makes_files = true;
                state.made.push(file);
                return;
            }
            Event::Log(line) => {
                state.row.logs.push_str(&line.message);
                state.row.logs.push('\n');
            }
            Event::Progress { .. } => return,
        }
        drop(state);
        self.tell();
    }

    /// Takes the items that wait for their files, if there are any, and the files that were made since the last time.
    pub(crate) fn take_held(&self) -> Option<(Vec<OutputFile>, Vec<String>)> {
        let mut state = self.lock();
        if state.held.is_empty() {
            return None;
        }
        Some((std::mem::take(&mut state.made), std::mem::take(&mut state.held)))
    }

    /// Shows items whose files are kept.
    pub(crate) fn show(&self, items: Vec<Arc<str>>) {
        self.lock().items.extend(items);
        self.tell();
    }

    /// Asks it to stop. The first reason counts. Whether there was something to stop.
    pub(crate) fn stop(&self, reason: Reason) -> bool {
        let mut state = self.lock();
        if state.row.status.is_terminal() {
            return false;
        }
        state.stop.get_or_insert(reason);
        drop(state);
        self.cancel.cancel();
        self.tell();
        true
    }

    /// Its row is on disk.
    pub(crate) fn set_recorded(&self) {
        self.lock().recorded = true;
        self.tell();
    }

    /// Whether its row is on disk.
    pub(crate) fn is_recorded(&self) -> bool {
        self.lock().recorded
    }

    /// The server stops before its end: nobody need wait.
    pub(crate) fn leave(&self) {
        self.lock().left = true;
        self.tell();
    }

    /// Whether its end is left to the next start of the server.
    pub(crate) fn is_left(&self) -> bool {
        self.lock().left
    }

    /// Waits until its row is on disk, or it has ended.
    pub(crate) async fn recorded(&self) {
        let mut changes = self.watch();
        loop {
            {
                let state = self.lock();
                if state.recorded || state.left || state.row.status.is_terminal() {
                    return;
                }
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Why it is to stop, and whether a lane has it.
    pub(crate) fn stopping(&self) -> (Option<Reason>, bool) {
        let state = self.lock();
        (state.stop, state.begun)
    }

    /// The row as it would be written now; what an output has grown to is in it.
    pub(crate) fn row(&self) -> Prediction {
        let state = self.lock();
        let mut row = state.row.clone();
        if row.output.is_none() && !state.items.is_empty() {
            row.output = Some(join(&state.items).into());
        }
        row
    }

    /// Where it stands.
    pub(crate) fn status(&self) -> Status {
        self.lock().row.status
    }

    /// Ends it, once that is on disk.
    pub(crate) fn end(&self, row: Prediction) {
        let mut state = self.lock();
        state.row = row;
        (state.made, state.held) = Default::default();
        // An output that did not grow is its own only item.
        if state.items.is_empty()
            && !state.listed
            && let Some(output) = &state.row.output
        {
            state.items = vec![Arc::clone(output)];
        }
        drop(state);
        self.tell();
    }

    /// Sets the items of an output that has ended, files' URLs included; nothing if it is no list of items but one.
    pub(crate) fn set_items(&self, items: Option<Vec<Arc<str>>>) {
        let mut state = self.lock();
        state.listed = items.is_some();
        state.items = items.unwrap_or_default();
    }

    /// What has been added since a position, which moves on.
    pub(crate) fn news(&self, position: &mut Position) -> News {
        let state = self.lock();
        let mut news = News {
            items: state.items.get(position.items..).unwrap_or_default().to_vec(),
            logs: state.row.logs.get(position.logs..).unwrap_or_default().to_owned(),
            end: None,
        };
        position.items += news.items.len();
        position.logs += news.logs.len();
        if state.row.status.is_terminal() {
            news.end = Some((state.row.status, state.row.error.clone()));
        }
        news
    }

    /// Tells of every change from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether somebody waits for changes.
    pub(crate) fn is_watched(&self) -> bool {
        self.changed.receiver_count() > 0
    }

    /// Waits for the end, or until it is left.
    pub(crate) async fn ended(&self) {
        let mut changes = self.watch();
        while !self.status().is_terminal() && !self.is_left() {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// What it holds in memory, roughly, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let state = self.lock();
        let items: usize = state.items.iter().map(|item| item.len() + 16).sum();
        let output = state.row.output.as_ref().map_or(0, |output| output.len());
        1024 + items + output + state.row.input.len() + state.row.logs.len()
    }
}

/// Items as a JSON list.
pub(crate) fn join(items: &[Arc<str>]) -> String {
    let mut list = String::with_capacity(2 + items.iter().map(|item| item.len() + 1).sum::<usize>());
    list.push('[');
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            list.push(',');
        }
        list.push_str(item);
    }
    list.push(']');
    list
}

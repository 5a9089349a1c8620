//! The one thread that writes. Changes that wait together are committed together: one sync to disk serves them all.

use std::sync::Arc;
use std::thread::JoinHandle;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::checkpoint::Checkpoints;
use crate::catalog::{Catalog, Snapshot};
use crate::scheduling;

/// Changes that may wait; whoever brings more waits too.
const QUEUE: usize = 1024;

/// Changes in one transaction at most.
const BATCH: usize = 64;

/// What a change does to the catalog once it is committed.
pub(crate) type Apply = Box<dyn FnOnce(&mut Snapshot) + Send>;

type Work = Box<dyn FnOnce(&Connection) -> rusqlite::Result<Option<Apply>> + Send>;

struct Change {
    work: Work,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// The way to the writer.
pub(super) struct Writer {
    changes: Option<mpsc::Sender<Change>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        checkpoints: Checkpoints,
        catalog: Arc<Catalog>,
    ) -> Result<Self, StoreError> {
        let (changes, queue) = mpsc::channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                scheduling::prompt();
                write(&connection, checkpoints, &catalog, queue);
            })?;
        Ok(Self {
            changes: Some(changes),
            thread: Some(thread),
        })
    }

    /// Runs `work` inside a transaction; returns when it is on disk and in the catalog. If the caller goes away meanwhile, the
    /// change happens all the same, whole.
    pub(super) async fn change<F>(&self, work: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<Apply> + Send + 'static,
    {
        self.queue(move |c| work(c).map(Some)).await
    }

    /// As [`Writer::change`], where `work` decides, by what the database says now, what becomes of it. Returns its decision.
    pub(super) async fn decide<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<(T, Option<Apply>)> + Send + 'static,
    {
        let (send, decision) = oneshot::channel();
        let work = move |c: &Connection| {
            let (decided, apply) = work(c)?;
            // Whoever waits for it may have gone away.
            let _ = send.send(decided);
            Ok(apply)
        };
        self.queue(work).await?;
        decision.await.map_err(|_| StoreError::Closed)
    }

    /// As [`Writer::change`], for what does not show in the catalog. Returns what `work` returned.
    pub(super) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.decide(|c| Ok((work(c)?, None))).await
    }

    /// As [`Writer::write`], from a thread that may block.
    pub(super) fn write_blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (send, value) = oneshot::channel();
        let (done, outcome) = oneshot::channel();
        let work = move |c: &Connection| {
            // The thread waits for it.
            let _ = send.send(work(c)?);
            Ok(None)
        };
        let changes = self.changes.as_ref().ok_or(StoreError::Closed)?;
        let change = Change {
            work: Box::new(work),
            done,
        };
        changes.blocking_send(change).map_err(|_| StoreError::Closed)?;
        outcome.blocking_recv().map_err(|_| StoreError::Closed)??;
        value.blocking_recv().map_err(|_| StoreError::Closed)
    }

    async fn queue<F>(&self, work: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<Option<Apply>> + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        let changes = self.changes.as_ref().ok_or(StoreError::Closed)?;
        changes
            .send(Change {
                work: Box::new(work),
                done,
            })
            .await
            .map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.changes = None;
        if let Some(thread) = self.thread.take() {
            // What is queued is written before the thread ends.
            let _ = thread.join();
        }
    }
}

fn write(connection: &Connection, mut checkpoints: Checkpoints, catalog: &Catalog, mut queue: mpsc::Receiver<Change>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = queue.blocking_recv() {
        batch.push(first);
        while batch.len() < BATCH
            && let Ok(change) = queue.try_recv()
        {
            batch.push(change);
        }
        commit(connection, catalog, &mut batch);
        checkpoints.committed(connection);
    }
    drop(checkpoints);
    if let Err(e) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!("the database's log could not be folded in, which the next start will do: {e}");
    }
}

/// Commits a batch. A change that fails is undone alone; if the commit itself fails, all of them have failed.
fn commit(connection: &Connection, catalog: &Catalog, batch: &mut Vec<Change>) {
    let mut applied = Vec::with_capacity(batch.len());
    let result = (|| {
        connection.execute_batch("BEGIN IMMEDIATE")?;
        for Change { work, done } in batch.drain(..) {
            connection.execute_batch("SAVEPOINT change")?;
            match work(connection) {
                Ok(apply) => {
                    connection.execute_batch("RELEASE change")?;
                    applied.push((apply, done));
                }
                Err(e) => {
                    connection.execute_batch("ROLLBACK TO change; RELEASE change")?;
                    let _ = done.send(Err(e.into()));
                }
            }
        }
        connection.execute_batch("COMMIT")
    })();
    match result {
        Ok(()) => {
            let mut next: Option<Snapshot> = None;
            let mut waiting = Vec::with_capacity(applied.len());
            for (apply, done) in applied {
                if let Some(apply) = apply {
                    apply(next.get_or_insert_with(|| (*catalog.now()).clone()));
                }
                waiting.push(done);
            }
            if let Some(next) = next {
                catalog.replace(next);
            }
            for done in waiting {
                let _ = done.send(Ok(()));
            }
        }
        Err(e) => {
            tracing::error!("a transaction failed: {e}");
            // Without a transaction open, this fails, which is as well.
            let _ = connection.execute_batch("ROLLBACK");
            let message = e.to_string();
            for (_, done) in applied {
                let failed = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(1), Some(message.clone()));
                let _ = done.send(Err(failed.into()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn writer() -> (Writer, Arc<Catalog>) {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)")
            .unwrap();
        let catalog = Arc::new(Catalog::default());
        let checkpoints = Checkpoints::start(Connection::open_in_memory().unwrap(), 1).unwrap();
        (
            Writer::start(connection, checkpoints, Arc::clone(&catalog)).unwrap(),
            catalog,
        )
    }

    async fn insert(writer: &Writer, n: i64) -> Result<(), StoreError> {
        writer
            .change(move |c| {
                c.execute("INSERT INTO t VALUES (?1)", [n])?;
                Ok(Box::new(move |s: &mut Snapshot| {
                    s.model_mut(&format!("o/m{n}"), n);
                }))
            })
            .await
    }

    #[tokio::test]
    async fn a_change_that_fails_takes_no_other_with_it() {
        let (writer, catalog) = writer();
        let results = futures::future::join_all([1, 2, 1, 3].map(|n| insert(&writer, n))).await;
        assert_eq!(
            results.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, true, false, true]
        );
        assert_eq!(
            catalog.now().count().0,
            3,
            "the catalog shows what was committed and nothing else"
        );
    }

    #[tokio::test]
    async fn what_was_queued_is_written_before_the_writer_ends() {
        let (writer, catalog) = writer();
        let results = futures::future::join_all((0..200).map(|n| insert(&writer, n))).await;
        drop(writer);
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(catalog.now().count().0, 200);
    }
}

//! The one thread that writes. Changes that wait together are committed together: one sync to disk serves them all. What nobody waits
//! for goes along with what somebody does.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

use super::StoreError;
use super::checkpoint::Checkpoints;
use crate::catalog::{Catalog, Snapshot};
use crate::scheduling;

/// Changes that may wait; whoever brings more waits too.
const QUEUE: usize = 1024;

/// Changes in one transaction at most, and as many again that go along.
const BATCH: usize = 64;

/// How long a change that nobody waits for may wait for another to go along with.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);

/// What a change does to the catalog once it is committed.
pub(crate) type Apply = Box<dyn FnOnce(&mut Snapshot) + Send>;

type Work = Box<dyn FnOnce(&Connection) -> rusqlite::Result<Option<Apply>> + Send>;

struct Change {
    work: Work,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// What the writer is told.
enum Order {
    Commit(Change),
    /// Those that go along have waited long enough.
    Along,
}

/// Changes that go along with the next commit.
type Patient = Arc<Mutex<Vec<Change>>>;

/// The way to the writer.
pub(super) struct Writer {
    orders: Option<mpsc::Sender<Order>>,
    patient: Patient,
    patience: Duration,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        connection: Connection,
        checkpoints: Checkpoints,
        catalog: Arc<Catalog>,
        patience: Duration,
    ) -> Result<Self, StoreError> {
        let (orders, queue) = mpsc::channel(QUEUE);
        let patient = Patient::default();
        let along = Arc::clone(&patient);
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || {
                scheduling::prompt();
                write(&connection, checkpoints, &catalog, queue, &along);
            })?;
        Ok(Self {
            orders: Some(orders),
            patient,
            patience,
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

    /// As [`Writer::write`], for what nobody waits for: it goes along with the next change, or is committed by itself after a while.
    pub(super) async fn write_along<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (send, value) = oneshot::channel();
        let (done, mut outcome) = oneshot::channel();
        let work: Work = Box::new(move |c| {
            // Whoever waits for it may have gone away.
            let _ = send.send(work(c)?);
            Ok(None)
        });
        let many = {
            let mut patient = self.patient.lock().unwrap_or_else(PoisonError::into_inner);
            patient.push(Change { work, done });
            patient.len() >= BATCH
        };
        let went_along = match many {
            true => None,
            false => tokio::time::timeout(self.patience, &mut outcome).await.ok(),
        };
        let outcome = match went_along {
            Some(outcome) => outcome,
            None => {
                self.order(Order::Along).await?;
                outcome.await
            }
        };
        outcome.map_err(|_| StoreError::Closed)??;
        value.await.map_err(|_| StoreError::Closed)
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
        let orders = self.orders.as_ref().ok_or(StoreError::Closed)?;
        let work = Box::new(work);
        let order = Order::Commit(Change { work, done });
        orders.blocking_send(order).map_err(|_| StoreError::Closed)?;
        outcome.blocking_recv().map_err(|_| StoreError::Closed)??;
        value.blocking_recv().map_err(|_| StoreError::Closed)
    }

    async fn queue<F>(&self, work: F) -> Result<(), StoreError>
    where
        F: FnOnce(&Connection) -> rusqlite::Result<Option<Apply>> + Send + 'static,
    {
        let (done, outcome) = oneshot::channel();
        let work = Box::new(work);
        self.order(Order::Commit(Change { work, done })).await?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    async fn order(&self, order: Order) -> Result<(), StoreError> {
        let orders = self.orders.as_ref().ok_or(StoreError::Closed)?;
        orders.send(order).await.map_err(|_| StoreError::Closed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // What is queued is written before the thread ends.
            let _ = thread.join();
        }
    }
}

fn write(
    connection: &Connection,
    mut checkpoints: Checkpoints,
    catalog: &Catalog,
    mut queue: mpsc::Receiver<Order>,
    patient: &Patient,
) {
    let mut batch = Vec::with_capacity(2 * BATCH);
    let go_along = |batch: &mut Vec<Change>| {
        let mut patient = patient.lock().unwrap_or_else(PoisonError::into_inner);
        let some = patient.len().min(BATCH);
        batch.extend(patient.drain(..some));
    };
    while let Some(first) = queue.blocking_recv() {
        let mut next = Some(first);
        while let Some(order) = next {
            if let Order::Commit(change) = order {
                batch.push(change);
            }
            next = if batch.len() < BATCH {
                queue.try_recv().ok()
            } else {
                None
            };
        }
        // Behind those that somebody waits for, which may be what they end.
        go_along(&mut batch);
        if !batch.is_empty() {
            commit(connection, catalog, &mut batch);
            checkpoints.committed(connection);
        }
    }
    loop {
        go_along(&mut batch);
        if batch.is_empty() {
            break;
        }
        commit(connection, catalog, &mut batch);
    }
    drop(checkpoints);
    if let Err(e) = connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)") {
        tracing::warn!("the database's log could not be folded in, which the next start will do: {e}");
    }
}

/// Commits a batch. A change that fails is undone alone; if the commit itself fails, all of them have failed.
fn commit(connection: &Connection, catalog: &Catalog, batch: &mut Vec<Change>) {
    let mut applied = Vec::with_capacity(batch.len());
    let run = |sql: &str| connection.prepare_cached(sql)?.execute([]);
    let result: rusqlite::Result<()> = (|| {
        run("BEGIN IMMEDIATE")?;
        // What is alone is undone with the transaction.
        let several = batch.len() > 1;
        for Change { work, done } in batch.drain(..) {
            if several {
                run("SAVEPOINT change")?;
            }
            match work(connection) {
                Ok(apply) => {
                    if several {
                        run("RELEASE change")?;
                    }
                    applied.push((apply, done));
                }
                Err(e) => {
                    let _ = done.send(Err(e.into()));
                    if several {
                        run("ROLLBACK TO change")?;
                        run("RELEASE change")?;
                    } else if !connection.is_autocommit() {
                        run("ROLLBACK")?;
                    }
                }
            }
        }
        // Unless it was undone.
        if !connection.is_autocommit() {
            run("COMMIT")?;
        }
        Ok(())
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
        // Longer than any test.
        writer_with(Duration::from_secs(3600))
    }

    fn writer_with(patience: Duration) -> (Writer, Arc<Catalog>) {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)")
            .unwrap();
        let catalog = Arc::new(Catalog::default());
        let checkpoints = Checkpoints::start(Connection::open_in_memory().unwrap(), 1).unwrap();
        (
            Writer::start(connection, checkpoints, Arc::clone(&catalog), patience).unwrap(),
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
    async fn a_change_that_fails_halfway_leaves_nothing() {
        let (writer, _) = writer();
        insert(&writer, 1).await.unwrap();
        let halfway = writer.write(|c| {
            c.execute("INSERT INTO t VALUES (2)", [])?;
            c.execute("INSERT INTO t VALUES (1)", [])
        });
        assert!(halfway.await.is_err());
        assert_eq!(writer.write(count).await.unwrap(), 1);
        insert(&writer, 2).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_queued_is_written_before_the_writer_ends() {
        let (writer, catalog) = writer();
        let results = futures::future::join_all((0..200).map(|n| insert(&writer, n))).await;
        drop(writer);
        assert!(results.iter().all(Result::is_ok));
        assert_eq!(catalog.now().count().0, 200);
    }

    fn count(c: &Connection) -> rusqlite::Result<i64> {
        c.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
    }

    #[tokio::test]
    async fn what_nobody_waits_for_goes_along_with_the_next_change() {
        let (writer, _) = writer();
        let mut along: Vec<_> = (0..3)
            .map(|n| Box::pin(writer.write_along(move |c| c.execute("INSERT INTO t VALUES (?1)", [n]))))
            .collect();
        for change in &mut along {
            assert!(futures::poll!(change).is_pending());
        }
        insert(&writer, 10).await.unwrap();
        assert_eq!(writer.write(count).await.unwrap(), 4);
        for change in along {
            assert_eq!(change.await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_written_all_the_same() {
        let (writer, _) = writer_with(PATIENCE);
        assert_eq!(writer.write_along(count).await.unwrap(), 0);
        // As many as go into one transaction do not wait for more.
        let (writer, _) = self::writer();
        let many = (0..BATCH).map(|n| writer.write_along(move |c| c.execute("INSERT INTO t VALUES (?1)", [n as i64])));
        let many = futures::future::join_all(many);
        let written = tokio::time::timeout(Duration::from_secs(60), many).await.unwrap();
        assert!(written.iter().all(|n| *n.as_ref().unwrap() == 1));
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_written_before_the_writer_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch("CREATE TABLE t (n INTEGER PRIMARY KEY)")
            .unwrap();
        let checkpoints = Checkpoints::start(Connection::open_in_memory().unwrap(), 1).unwrap();
        let patience = Duration::from_secs(3600);
        let writer = Writer::start(connection, checkpoints, Arc::default(), patience).unwrap();
        {
            let mut along = Box::pin(writer.write_along(|c| c.execute("INSERT INTO t VALUES (1)", [])));
            assert!(futures::poll!(&mut along).is_pending());
        }
        drop(writer);
        assert_eq!(count(&Connection::open(&path).unwrap()).unwrap(), 1);
    }
}

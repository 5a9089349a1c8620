//! Folds the database's log into the database while the writer goes on, so that a commit waits for its own sync to disk and seldom
//! for more.
//!
//! Another connection copies most of the log; the writer, told of it, copies the little that has come since, and begins the log anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// Commits between two foldings: about 100 MiB of log. While it is folded commits wait for the disk, so that seldom is better.
pub(super) const EVERY: u32 = 4096;

/// Copies what it can without making anybody wait.
const FOLD: &str = "PRAGMA wal_checkpoint(PASSIVE)";

/// The thread that folds, as the writer sees it.
pub(super) struct Checkpoints {
    every: u32,
    commits: u32,
    ask: Option<SyncSender<()>>,
    /// Whether there is little left to fold.
    nearly: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    /// Starts the thread, which folds after so many commits, through a connection of its own.
    pub(super) fn start(connection: Connection, every: u32) -> std::io::Result<Self> {
        let (ask, asked) = sync_channel(1);
        let nearly = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&nearly);
        let thread = std::thread::Builder::new()
            .name("store-fold".to_owned())
            .spawn(move || {
                while asked.recv().is_ok() {
                    fold(&connection);
                    done.store(true, Ordering::Relaxed);
                }
            })?;
        Ok(Self {
            every,
            commits: 0,
            ask: Some(ask),
            nearly,
            thread: Some(thread),
        })
    }

    /// The writer has committed through its connection, and nobody waits for it at this moment.
    pub(super) fn committed(&mut self, connection: &Connection) {
        self.commits += 1;
        if self.nearly.swap(false, Ordering::Relaxed) {
            fold(connection);
        }
        if self.commits >= self.every
            && let Some(ask) = &self.ask
            // It is at it still.
            && ask.try_send(()).is_ok()
        {
            self.commits = 0;
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn fold(connection: &Connection) {
    // What could not be folded now is folded the next time, or at the next start.
    if let Err(e) = connection.query_row(FOLD, [], |_| Ok(())) {
        tracing::warn!("the database's log could not be folded in: {e}");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_log_stays_short_however_much_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let open = || {
            let connection = Connection::open(&path).unwrap();
            let settings = "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF; PRAGMA wal_autocheckpoint = 0";
            connection.execute_batch(settings).unwrap();
            connection
        };
        let connection = open();
        connection.execute_batch("CREATE TABLE t (n BLOB)").unwrap();
        let mut checkpoints = Checkpoints::start(open(), 50).unwrap();
        let page = [7_u8; 4096];
        let commits = 5000;
        for _ in 0..commits {
            connection.execute("INSERT INTO t VALUES (?1)", [&page[..]]).unwrap();
            checkpoints.committed(&connection);
        }
        drop(checkpoints);
        let count: i64 = connection
            .query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, commits);
        let log = std::fs::metadata(folder.path().join("test.db-wal")).unwrap().len();
        let all = commits as u64 * 4096;
        assert!(log < all / 4, "{log} bytes of log for {all} bytes written");
    }
}

//! What is kept: SQLite in the data folder. One thread writes, several changes to a transaction; a small pool reads.
//!
//! A change is acknowledged only after its commit has reached the disk, and shows in the catalog only after that.

mod checkpoint;
pub(crate) mod ledger;
mod migrations;
mod reader;
mod records;
pub(crate) mod registry;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::catalog::Catalog;
use checkpoint::{Checkpoints, EVERY};
use reader::Readers;
pub(crate) use records::{NewVersion, StoredVersion};
use writer::{PATIENCE, Writer};

/// The database's file name inside the data folder.
const FILE: &str = "maquette.db";

/// Why something could not be stored or found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// SQLite failed.
    #[error("the database: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The file is of a newer version of the program.
    #[error(
        "the database has version {found}, this program knows versions up to {known}: use the program that wrote it, or a newer one"
    )]
    Newer {
        /// What the file says.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// A record does not read back.
    #[error("the database holds a record that does not read: {0}")]
    Damaged(String),
    /// A thread could not be started.
    #[error("starting the database's thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The writer is gone: the server is stopping.
    #[error("the database is closed")]
    Closed,
}

impl StoreError {
    /// Whether the database refused a change because of what is in it.
    pub(crate) fn is_constraint(&self) -> bool {
        let code = match self {
            Self::Sqlite(e) => e.sqlite_error_code(),
            _ => None,
        };
        code == Some(rusqlite::ErrorCode::ConstraintViolation)
    }
}

/// The store. Closing it (dropping the last one) ends the writer after what is queued.
pub(crate) struct Store {
    writer: Writer,
    readers: Readers,
}

impl Store {
    /// Opens or creates the database in `data` and fills the catalog from it.
    pub(crate) fn open(data: &Path, catalog: &Arc<Catalog>) -> Result<Self, StoreError> {
        let path = data.join(FILE);
        let mut connection = Connection::open(&path)?;
        prepare(&connection)?;
        // Every commit reaches the disk before it is acknowledged, power loss included.
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrations::run(&mut connection)?;
        catalog.replace(records::load(&connection)?);
        // Whoever commits does not wait until the log is folded in: see `checkpoint`.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        let folding = Connection::open(&path)?;
        prepare(&folding)?;
        folding.pragma_update(None, "wal_autocheckpoint", 0)?;
        let checkpoints = Checkpoints::start(folding, EVERY)?;
        let readers = Readers::new(move || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&path, flags)?;
            prepare(&connection)?;
            Ok(connection)
        });
        let writer = Writer::start(connection, checkpoints, Arc::clone(catalog), PATIENCE)?;
        Ok(Self { writer, readers })
    }
}

impl Store {
    /// Runs `work` in a transaction that other changes may share; returns what it returned once that is on disk. A failing
    /// `work` is undone alone.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.write(work).await
    }

    /// As [`Store::write`], for what nobody waits for: it takes up to some milliseconds more, and seldom a commit of its own.
    pub(crate) async fn write_along<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.write_along(work).await
    }

    /// As [`Store::write`], from a thread that may block, such as a lane.
    pub(crate) fn write_blocking<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.writer.write_blocking(work)
    }

    /// Runs a query on a blocking thread.
    pub(crate) async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        self.readers.read(query).await
    }
}

/// What every connection needs.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(Duration::from_secs(10))?;
    // As many as there are, so that none is parsed twice.
    connection.set_prepared_statement_cache_capacity(64);
    // Each connection's page cache, in KiB.
    connection.pragma_update(None, "cache_size", -2048)
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

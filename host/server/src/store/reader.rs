//! Reading connections, used on blocking threads, never on the way of a call.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::StoreError;

/// Reads at once; more wait.
const READERS: usize = 4;

type Open = dyn Fn() -> rusqlite::Result<Connection> + Send + Sync;

/// A small pool, filled when it is first used.
pub(super) struct Readers {
    open: Arc<Open>,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(open: impl Fn() -> rusqlite::Result<Connection> + Send + Sync + 'static) -> Self {
        Self {
            open: Arc::new(open),
            idle: Arc::default(),
            permits: Arc::new(Semaphore::new(READERS)),
        }
    }

    /// Runs a query on a blocking thread.
    pub(super) async fn read<T, F>(&self, query: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)?;
        let (open, idle) = (Arc::clone(&self.open), Arc::clone(&self.idle));
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let pooled = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let connection = match pooled {
                Some(connection) => connection,
                None => open()?,
            };
            let result = query(&connection)?;
            idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok(result)
        });
        work.await.map_err(|_| StoreError::Closed)?
    }
}

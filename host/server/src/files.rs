//! Files that callers send and outputs leave: kept for a while, counted against a quota, found by owner and id only.

pub(crate) mod disk;
mod inputs;
pub(crate) mod links;
pub(crate) mod outputs;
mod records;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;

use crate::StartError;
use crate::config::Config;
use crate::http::body::Memory;
use crate::ids;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::problem::Problem;
use crate::secrets::Secrets;
use crate::store::{Store, StoreError, now_ms};
use disk::{Disk, Incoming, Sums};
pub(crate) use records::{File, Kind};

/// The folder's name inside the data folder.
const FOLDER: &str = "files";

/// Expired files removed in one transaction.
const SWEEP: usize = 500;

/// What is said of a file before it is kept.
#[derive(Debug)]
pub(crate) struct New {
    /// Whose it is.
    pub(crate) owner: Arc<str>,
    /// Why it is kept; decides how long.
    pub(crate) kind: Kind,
    /// Whose output it is.
    pub(crate) prediction_id: Option<String>,
    /// A name for people.
    pub(crate) name: String,
    /// A media type, checked (see [`media_type`]).
    pub(crate) content_type: String,
    /// A JSON object as text.
    pub(crate) metadata: String,
}

/// All files of a server. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Files {
    disk: Disk,
    store: Arc<Store>,
    secrets: Secrets,
    outbound: Outbound,
    memory: Memory,
    metrics: Arc<Metrics>,
    limits: Limits,
}

#[derive(Clone, Debug)]
struct Limits {
    file: u64,
    quota: u64,
    input: u64,
    fetch: Duration,
    upload_ttl: Duration,
    output_ttl: Duration,
    public_url: Option<String>,
}

impl Files {
    /// Opens the folder inside the data folder.
    pub(crate) fn open(
        config: &Config,
        store: Arc<Store>,
        secrets: Secrets,
        outbound: Outbound,
        memory: Memory,
        metrics: Arc<Metrics>,
    ) -> Result<Self, StartError> {
        let root = config.data.join(FOLDER);
        let disk = Disk::open(&root).map_err(|e| StartError::file(&root, e))?;
        let limits = Limits {
            file: config.max_file_bytes,
            quota: config.files_per_owner_bytes,
            input: config.input_files_bytes,
            fetch: config.fetch_timeout,
            upload_ttl: config.file_ttl,
            output_ttl: config.output_ttl,
            public_url: config.public_url.clone(),
        };
        Ok(Self {
            disk,
            store,
            secrets,
            outbound,
            memory,
            metrics,
            limits,
        })
    }

    /// At start: removes bytes that no row knows and rows whose bytes are gone, as a crash may leave them. Must end before
    /// anything is kept.
    pub(crate) async fn reconcile(&self) -> Result<(), String> {
        let known = self.store.read(records::all).await.map_err(|e| e.to_string())?;
        let disk = self.disk.clone();
        let work = tokio::task::spawn_blocking(move || {
            let here: HashSet<String> = disk.list()?.into_iter().collect();
            let rows: HashSet<&str> = known.iter().map(|(id, _)| id.as_str()).collect();
            for stray in here.iter().filter(|id| !rows.contains(id.as_str())) {
                disk.remove(stray)?;
            }
            let (whole, lost): (Vec<_>, Vec<_>) = known.into_iter().partition(|(id, _)| here.contains(id));
            let bytes = whole.iter().map(|(_, size)| size).sum::<u64>();
            Ok::<_, std::io::Error>((bytes, lost.into_iter().map(|(id, _)| id).collect::<Vec<_>>()))
        });
        let (bytes, lost) = work.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        self.metrics.outside.kept(bytes);
        if !lost.is_empty() {
            tracing::warn!(files = lost.len(), "files whose bytes are gone are forgotten");
            let forget = move |c: &rusqlite::Connection| records::forget(c, &lost);
            self.store.write(forget).await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// The largest file that a caller may send, in bytes.
    pub(crate) fn largest(&self) -> u64 {
        self.limits.file
    }

    /// Refuses early what the quota has no room for.
    pub(crate) async fn check_room(&self, owner: &Arc<str>, bytes: u64) -> Result<(), Problem> {
        let asker = Arc::clone(owner);
        let used = self
            .store
            .read(move |c| records::usage(c, &asker))
            .await
            .map_err(Problem::internal)?;
        if used.saturating_add(bytes).saturating_add(records::OVERHEAD) > self.limits.quota {
            return Err(self.full());
        }
        Ok(())
    }

    fn full(&self) -> Problem {
        let detail = format!(
            "your files take all of the {} bytes that this server keeps for you: delete some, or wait until they expire",
            self.limits.quota
        );
        Problem::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "File quota used up",
            "file-quota",
            detail,
        )
        .with("limit_bytes", self.limits.quota.into())
    }

    /// A file that arrives now. Blocks when it is written to.
    pub(crate) fn incoming(&self) -> std::io::Result<Incoming> {
        self.disk.incoming()
    }

    /// Keeps files of one owner that have arrived whole: all or none. Goes on to its end even if the caller leaves, so that nothing
    /// is left behind.
    pub(crate) async fn keep(&self, new: Vec<(New, Incoming)>) -> Result<Vec<File>, Problem> {
        let files = self.clone();
        let kept = tokio::spawn(async move { files.keep_whole(new).await });
        kept.await.map_err(Problem::internal)?
    }

    async fn keep_whole(&self, new: Vec<(New, Incoming)>) -> Result<Vec<File>, Problem> {
        let (disk, limits) = (self.disk.clone(), self.limits.clone());
        let landed = tokio::task::spawn_blocking(move || {
            let mut landed = Vec::with_capacity(new.len());
            for (new, incoming) in new {
                let id = new_id();
                match incoming.keep(&disk, &id) {
                    Ok(sums) => landed.push(row(new, id, sums, &limits)),
                    Err(e) => {
                        remove(&disk, landed.iter().map(|file: &File| file.id.as_str()));
                        return Err(disk_problem(&e));
                    }
                }
            }
            Ok(landed)
        });
        let landed = landed.await.map_err(Problem::internal)??;
        let (rows, quota) = (landed.clone(), self.limits.quota);
        let inserted = self.store.write(move |c| records::insert(c, &rows, quota)).await;
        if !matches!(inserted, Ok(true)) {
            let (disk, ids) = (
                self.disk.clone(),
                landed.into_iter().map(|file| file.id).collect::<Vec<_>>(),
            );
            let undo = tokio::task::spawn_blocking(move || remove(&disk, ids.iter().map(String::as_str)));
            undo.await.map_err(Problem::internal)?;
            inserted.map_err(Problem::internal)?;
            return Err(self.full());
        }
        self.metrics
            .outside
            .kept(landed.iter().map(|file| file.sums.size).sum());
        Ok(landed)
    }

    /// A file of an owner's; the same error for one that is another's, that is not there, and that has expired.
    pub(crate) async fn get(&self, owner: &str, id: &str) -> Result<File, Problem> {
        let (owner, id) = (owner.to_owned(), id.to_owned());
        let found = self.store.read(move |c| records::get(c, &owner, &id, now_ms())).await;
        found.map_err(Problem::internal)?.ok_or_else(not_found)
    }

    /// An owner's files, newest first, behind a place in that order.
    pub(crate) async fn list(&self, owner: &str, before: (i64, String), limit: usize) -> Result<Vec<File>, Problem> {
        let owner = owner.to_owned();
        let found = self
            .store
            .read(move |c| records::list(c, &owner, now_ms(), &before, limit))
            .await;
        found.map_err(Problem::internal)
    }

    /// Removes a file of an owner's.
    pub(crate) async fn delete(&self, owner: &str, id: &str) -> Result<(), Problem> {
        let (asker, asked) = (owner.to_owned(), id.to_owned());
        let gone = self
            .store
            .write(move |c| records::delete(c, &asker, &asked, now_ms()))
            .await;
        let size = gone.map_err(Problem::internal)?.ok_or_else(not_found)?;
        self.remove_all(vec![(id.to_owned(), size)]).await;
        Ok(())
    }

    /// Opens a file's bytes.
    pub(crate) async fn bytes(&self, id: &str) -> Result<tokio::fs::File, Problem> {
        match tokio::fs::File::open(self.disk.path(id)).await {
            Ok(file) => Ok(file),
            // It expired a moment ago.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(not_found()),
            Err(e) => Err(Problem::internal(e)),
        }
    }

    /// The file that a signed link stands for.
    pub(crate) async fn by_link(&self, link: &links::Signed) -> Result<File, Problem> {
        if !link.holds(&self.secrets, now_ms()) {
            return Err(not_found());
        }
        self.get(&link.owner, &link.id).await
    }

    /// The absolute URL of a file's bytes, which works without a token until the file expires.
    pub(crate) fn download_url(&self, origin: &str, file: &File) -> String {
        links::download(&self.secrets, origin, &file.owner, &file.id, file.expires_at)
    }

    /// Removes what has expired; returns how many.
    pub(crate) async fn sweep(&self) -> Result<usize, StoreError> {
        let mut removed = 0;
        loop {
            let expired = self.store.write(|c| records::expire(c, now_ms(), SWEEP)).await?;
            let some = expired.len();
            self.remove_all(expired).await;
            removed += some;
            if some < SWEEP {
                return Ok(removed);
            }
        }
    }

    /// Removes bytes whose rows are gone already. What fails is found at the next start.
    async fn remove_all(&self, gone: Vec<(String, u64)>) {
        if gone.is_empty() {
            return;
        }
        self.metrics.outside.removed(gone.iter().map(|(_, size)| size).sum());
        let disk = self.disk.clone();
        let work = tokio::task::spawn_blocking(move || remove(&disk, gone.iter().map(|(id, _)| id.as_str())));
        if let Err(e) = work.await {
            tracing::warn!("files could not be removed: {e}");
        }
    }
}

fn remove<'a>(disk: &Disk, ids: impl Iterator<Item = &'a str>) {
    for id in ids {
        if let Err(e) = disk.remove(id) {
            tracing::warn!(id, "a file could not be removed, which the next start will do: {e}");
        }
    }
}

fn new_id() -> String {
    ids::random().to_str().unwrap_or_default().to_owned()
}

fn row(new: New, id: String, sums: Sums, limits: &Limits) -> File {
    let now = now_ms();
    let ttl = match new.kind {
        Kind::Upload => limits.upload_ttl,
        Kind::Output => limits.output_ttl,
    };
    File {
        id,
        owner: new.owner,
        kind: new.kind,
        prediction_id: new.prediction_id,
        name: new.name,
        content_type: new.content_type,
        sums,
        metadata: new.metadata,
        created_at: now,
        expires_at: now.saturating_add(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)),
    }
}

/// The 404 of every file that the caller cannot have, in the words of today's API.
pub(crate) fn not_found() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "Not found", "not-found", "File not found")
}

/// The disk failed; if it is full, the client is told so.
pub(crate) fn disk_problem(error: &std::io::Error) -> Problem {
    if error.kind() == std::io::ErrorKind::StorageFull {
        let detail = "the server's disk is full; its operator has to make room";
        return Problem::new(StatusCode::INSUFFICIENT_STORAGE, "Disk full", "disk-full", detail);
    }
    Problem::internal(error)
}

/// A media type that may stand in a header; else that of any bytes.
pub(crate) fn media_type(text: &str) -> String {
    let legal = |b: u8| b.is_ascii_graphic() || b == b' ';
    let text = text.trim();
    let sound = text.len() <= 128
        && text.bytes().all(legal)
        && text
            .split_once('/')
            .is_some_and(|(a, b)| !a.is_empty() && !b.is_empty());
    if sound {
        text.to_owned()
    } else {
        "application/octet-stream".to_owned()
    }
}

#[cfg(test)]
mod tests;

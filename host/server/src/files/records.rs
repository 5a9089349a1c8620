//! What the database knows of files. Every query of a caller is by owner and id.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::disk::Sums;

/// What the quota counts for a file beside its bytes; the schema's triggers count the same.
pub(super) const OVERHEAD: u64 = 4096;

/// Why a file is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A caller sent it.
    Upload,
    /// A prediction made it.
    Output,
}

impl Kind {
    /// The word in the database and in replies.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Output => "output",
        }
    }
}

/// A file that is kept.
#[derive(Clone, Debug)]
pub(crate) struct File {
    /// 26 characters; the bytes lie under this name.
    pub(crate) id: String,
    /// Whose it is.
    pub(crate) owner: Arc<str>,
    /// Why it is kept.
    pub(crate) kind: Kind,
    /// Whose output it is.
    pub(crate) prediction_id: Option<String>,
    /// A name for people.
    pub(crate) name: String,
    /// A media type.
    pub(crate) content_type: String,
    /// Size and digests.
    pub(crate) sums: Sums,
    /// A JSON object as text.
    pub(crate) metadata: String,
    /// Unix milliseconds.
    pub(crate) created_at: i64,
    /// Unix milliseconds.
    pub(crate) expires_at: i64,
}

const COLUMNS: &str =
    "id, owner, kind, prediction_id, name, content_type, size, sha256, md5, metadata, created_at, expires_at";

fn read(row: &Row<'_>) -> rusqlite::Result<File> {
    Ok(File {
        id: row.get(0)?,
        owner: row.get::<_, String>(1)?.into(),
        kind: if row.get::<_, String>(2)? == "output" {
            Kind::Output
        } else {
            Kind::Upload
        },
        prediction_id: row.get(3)?,
        name: row.get(4)?,
        content_type: row.get(5)?,
        sums: Sums {
            size: row.get::<_, i64>(6)?.try_into().unwrap_or(0),
            sha256: row.get(7)?,
            md5: row.get(8)?,
        },
        metadata: row.get(9)?,
        created_at: row.get(10)?,
        expires_at: row.get(11)?,
    })
}

/// Bytes that an owner's files count.
pub(super) fn usage(c: &Connection, owner: &str) -> rusqlite::Result<u64> {
    let bytes: Option<i64> = c
        .prepare_cached("SELECT bytes FROM file_usage WHERE owner = ?1")?
        .query_row([owner], |row| row.get(0))
        .optional()?;
    Ok(bytes.and_then(|b| b.try_into().ok()).unwrap_or(0))
}

/// Keeps files of one owner, all or none: `false` if they do not fit into the quota.
pub(super) fn insert(c: &Connection, files: &[File], quota: u64) -> rusqlite::Result<bool> {
    let Some(first) = files.first() else {
        return Ok(true);
    };
    let more: u64 = files.iter().map(|file| file.sums.size + OVERHEAD).sum();
    if usage(c, &first.owner)?.saturating_add(more) > quota {
        return Ok(false);
    }
    let mut insert = c.prepare_cached(&format!(
        "INSERT INTO files ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
    ))?;
    for file in files {
        insert.execute(params![
            file.id,
            &*file.owner,
            file.kind.name(),
            file.prediction_id,
            file.name,
            file.content_type,
            i64::try_from(file.sums.size).unwrap_or(i64::MAX),
            file.sums.sha256,
            file.sums.md5,
            file.metadata,
            file.created_at,
            file.expires_at
        ])?;
    }
    Ok(true)
}

/// One file that has not expired.
pub(super) fn get(c: &Connection, owner: &str, id: &str, now: i64) -> rusqlite::Result<Option<File>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM files WHERE owner = ?1 AND id = ?2 AND expires_at > ?3"
    ))?
    .query_row(params![owner, id, now], read)
    .optional()
}

/// Files that have not expired, newest first, behind a place in that order.
pub(super) fn list(
    c: &Connection,
    owner: &str,
    now: i64,
    before: &(i64, String),
    limit: usize,
) -> rusqlite::Result<Vec<File>> {
    c.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM files WHERE owner = ?1 AND expires_at > ?2 AND (created_at, id) < (?3, ?4)
         ORDER BY created_at DESC, id DESC LIMIT ?5"
    ))?
    .query_map(params![owner, now, before.0, before.1, limit as i64], read)?
    .collect()
}

/// Forgets a file; returns its size if it was there.
pub(super) fn delete(c: &Connection, owner: &str, id: &str, now: i64) -> rusqlite::Result<Option<u64>> {
    c.prepare_cached("DELETE FROM files WHERE owner = ?1 AND id = ?2 AND expires_at > ?3 RETURNING size")?
        .query_row(params![owner, id, now], size)
        .optional()
}

fn size(row: &Row<'_>) -> rusqlite::Result<u64> {
    Ok(row.get::<_, i64>(0)?.try_into().unwrap_or(0))
}

fn id_and_size(row: &Row<'_>) -> rusqlite::Result<(String, u64)> {
    Ok((row.get(1)?, size(row)?))
}

/// Forgets files that have expired, some at a time; returns their ids and sizes.
pub(super) fn expire(c: &Connection, now: i64, limit: usize) -> rusqlite::Result<Vec<(String, u64)>> {
    c.prepare_cached(
        "DELETE FROM files WHERE id IN (SELECT id FROM files WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2)
         RETURNING size, id",
    )?
    .query_map(params![now, limit as i64], id_and_size)?
    .collect()
}

/// Forgets the outputs of a prediction; returns their ids and sizes.
pub(super) fn delete_outputs(c: &Connection, owner: &str, prediction_id: &str) -> rusqlite::Result<Vec<(String, u64)>> {
    c.prepare_cached("DELETE FROM files WHERE owner = ?1 AND prediction_id = ?2 RETURNING size, id")?
        .query_map([owner, prediction_id], id_and_size)?
        .collect()
}

/// Every file's id and size.
pub(super) fn all(c: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    c.prepare("SELECT size, id FROM files")?
        .query_map([], id_and_size)?
        .collect()
}

/// Forgets files whose bytes are gone.
pub(super) fn forget(c: &Connection, ids: &[String]) -> rusqlite::Result<()> {
    let mut delete = c.prepare_cached("DELETE FROM files WHERE id = ?1")?;
    ids.iter().try_for_each(|id| delete.execute([id]).map(|_| ()))
}

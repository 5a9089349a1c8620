//! The database's schema, one step per version of it. A step that has been released is never changed.

use rusqlite::Connection;

use super::StoreError;

/// Step `i` leads from version `i` to `i + 1`, kept in `user_version`.
const STEPS: &[&str] = &["
    CREATE TABLE models (
        name       TEXT PRIMARY KEY,          -- owner/name
        created_at INTEGER NOT NULL           -- Unix milliseconds, as everywhere
    ) STRICT;
    CREATE TABLE versions (
        sequence    INTEGER PRIMARY KEY,      -- the order of publishing
        model       TEXT NOT NULL REFERENCES models(name),
        id          BLOB NOT NULL,            -- sha256 of the canonical manifest
        number      TEXT NOT NULL,            -- semver of the manifest
        description TEXT NOT NULL,
        manifest    TEXT NOT NULL,            -- canonical JSON
        prepared    TEXT NOT NULL,            -- what the sandbox made of the component, as JSON
        created_at  INTEGER NOT NULL,
        UNIQUE (model, id)
    ) STRICT;
    CREATE INDEX versions_by_id ON versions (id);
    CREATE TABLE aliases (
        model      TEXT NOT NULL,
        alias      TEXT NOT NULL,
        id         BLOB NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (model, alias),
        FOREIGN KEY (model, id) REFERENCES versions (model, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tokens (
        id         TEXT PRIMARY KEY,
        hash       BLOB NOT NULL UNIQUE,      -- sha256 of the token; the token itself is kept nowhere
        owner      TEXT NOT NULL,
        label      TEXT NOT NULL,
        scopes     TEXT NOT NULL,             -- JSON list of names
        created_at INTEGER NOT NULL
    ) STRICT;
    "];

/// Brings a database to the newest version, each step in a transaction of its own.
pub(super) fn run(connection: &mut Connection) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let done = usize::try_from(found).ok().filter(|done| *done <= STEPS.len());
    let Some(done) = done else {
        return Err(StoreError::Newer {
            found,
            known: STEPS.len() as i64,
        });
    };
    for (i, step) in STEPS.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(step)?;
        transaction.pragma_update(None, "user_version", i as i64 + 1)?;
        transaction.commit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn migrating_twice_is_migrating_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        run(&mut connection).unwrap();
        run(&mut connection).unwrap();
        let version: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .unwrap();
        assert_eq!(version, STEPS.len() as i64);
    }

    #[test]
    fn a_database_of_a_newer_program_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(run(&mut connection), Err(StoreError::Newer { found: 99, .. })));
    }
}

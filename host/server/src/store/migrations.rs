//! The database's schema, one step per version of it. A step that has been released is never changed.

use rusqlite::Connection;

use super::StoreError;

/// Step `i` leads from version `i` to `i + 1`, kept in `user_version`.
const STEPS: &[&str] = &[
    include_str!("migrations/1_catalog.sql"),
    include_str!("migrations/2_ledger.sql"),
    include_str!("migrations/3_files_and_webhooks.sql"),
    include_str!("migrations/4_registry.sql"),
    include_str!("migrations/5_usage_of_versions.sql"),
    include_str!("migrations/6_quarantine.sql"),
    include_str!("migrations/7_grants.sql"),
];

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
    fn what_was_used_before_versions_were_counted_stays() {
        let mut connection = Connection::open_in_memory().unwrap();
        for step in &STEPS[..4] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", 4).unwrap();
        let used = "INSERT INTO usage VALUES ('ann', 20000, 'bob/m', 't', 3, 1, 5000, 5, 50)";
        connection.execute_batch(used).unwrap();
        run(&mut connection).unwrap();
        let row = connection.query_row(
            "SELECT owner, length(version), predictions, cost FROM usage",
            [],
            |row| {
                Ok((
                    row.get::<_, String>(0)?,
                    row.get::<_, i64>(1)?,
                    row.get::<_, i64>(2)?,
                    row.get::<_, i64>(3)?,
                ))
            },
        );
        assert_eq!(row.unwrap(), ("ann".to_owned(), 0, 3, 50));
    }

    #[test]
    fn a_database_of_a_newer_program_is_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(run(&mut connection), Err(StoreError::Newer { found: 99, .. })));
    }
}

//! What is written about models, deployments and collections beside their versions, and how it reads back.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, ToSql, params};

use super::writer::Apply;
use super::{Store, StoreError, now_ms};
use crate::catalog::{LATEST, Snapshot};
use crate::engine::Prepared;
use crate::names::VersionId;
use crate::registry::{Card, Collection, Deployment};

type Written = rusqlite::Result<Apply>;
type Decided<T> = rusqlite::Result<(T, Option<Apply>)>;

/// What came of removing something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Removal {
    /// It is gone.
    Gone,
    /// It was not there.
    Missing,
    /// It stays.
    Kept(Reason),
}

/// Why something stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A model has versions.
    Versions,
    /// This alias points at a version.
    Alias(String),
    /// A deployment runs a version.
    Deployment {
        /// Whose it is.
        owner: String,
        /// What it is called.
        name: String,
    },
    /// Others than its owner have run a version.
    Others,
}

/// Models of one owner, at most.
pub(crate) const MAX_MODELS: u32 = 1000;

/// What came of making something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Creation {
    /// It is there.
    Made,
    /// What is there already, or is there no more, is in its way.
    Conflict,
    /// Its owner has as many models as an owner may have.
    TooMany,
}

/// Whether the owner of a model `owner/name` may have no more of them.
pub(super) fn is_full(c: &Connection, model: &str) -> rusqlite::Result<bool> {
    let owner = model.split('/').next().unwrap_or_default();
    // The character behind the slash is the zero.
    let sql = "SELECT count(*) FROM models WHERE name > ?1 || '/' AND name < ?1 || '0'";
    let models: u32 = c.prepare_cached(sql)?.query_row([owner], |row| row.get(0))?;
    Ok(models >= MAX_MODELS)
}

fn text(card: &Card) -> String {
    // Strings and nothing else.
    serde_json::to_string(card).unwrap_or_else(|_| "{}".to_owned())
}

fn exists(c: &Connection, sql: &str, of: &[&dyn ToSql]) -> rusqlite::Result<bool> {
    Ok(c.query_row(sql, of, |_| Ok(())).optional()?.is_some())
}

/// What a change does to the catalog.
fn shows(apply: impl FnOnce(&mut Snapshot) + Send + 'static) -> Option<Apply> {
    Some(Box::new(apply))
}

impl Store {
    /// Makes a model without versions.
    pub(crate) async fn create_model(&self, name: String, private: bool, card: Card) -> Result<Creation, StoreError> {
        let now = now_ms();
        let work = move |c: &Connection| -> Decided<Creation> {
            if exists(c, "SELECT 1 FROM models WHERE name = ?1", params![name])? {
                return Ok((Creation::Conflict, None));
            }
            if is_full(c, &name)? {
                return Ok((Creation::TooMany, None));
            }
            let sql = "INSERT INTO models (name, created_at, private, card) VALUES (?1, ?2, ?3, ?4)";
            c.execute(sql, params![name, now, private, text(&card)])?;
            let apply = shows(move |snapshot| {
                let model = snapshot.model_mut(&name, now);
                model.private = private;
                model.card = Arc::new(card);
            });
            Ok((Creation::Made, apply))
        };
        self.writer.decide(work).await
    }

    /// Changes what a model's owner says of it, and whether it is private if that is said. Whether there is such a model.
    pub(crate) async fn change_model(
        &self,
        name: String,
        private: Option<bool>,
        change: impl FnOnce(&mut Card) + Send + 'static,
    ) -> Result<bool, StoreError> {
        let work = move |c: &Connection| -> Decided<bool> {
            let found = c
                .query_row("SELECT private, card FROM models WHERE name = ?1", [&name], |row| {
                    Ok((row.get::<_, bool>(0)?, row.get::<_, String>(1)?))
                })
                .optional()?;
            let Some((was_private, card)) = found else {
                return Ok((false, None));
            };
            let mut card: Card =
                serde_json::from_str(&card).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
            change(&mut card);
            let private = private.unwrap_or(was_private);
            c.execute(
                "UPDATE models SET private = ?2, card = ?3 WHERE name = ?1",
                params![name, private, text(&card)],
            )?;
            let apply = shows(move |snapshot| {
                let model = snapshot.model_mut(&name, 0);
                model.private = private;
                model.card = Arc::new(card);
            });
            Ok((true, apply))
        };
        self.writer.decide(work).await
    }

    /// Removes a model if it has no versions.
    pub(crate) async fn remove_model(&self, name: String) -> Result<Removal, StoreError> {
        let work = move |c: &Connection| -> Decided<Removal> {
            if exists(c, "SELECT 1 FROM versions WHERE model = ?1", params![name])? {
                return Ok((Removal::Kept(Reason::Versions), None));
            }
            if c.execute("DELETE FROM models WHERE name = ?1", [&name])? == 0 {
                return Ok((Removal::Missing, None));
            }
            Ok((Removal::Gone, shows(move |snapshot| snapshot.remove_model(&name))))
        };
        self.writer.decide(work).await
    }

    /// Removes a version of a model, with the aliases of its own number and `latest`, if nobody relies on it.
    pub(crate) async fn remove_version(&self, model: String, id: VersionId) -> Result<Removal, StoreError> {
        let owner = model.split('/').next().unwrap_or_default().to_owned();
        let work = move |c: &Connection| -> Decided<Removal> {
            let of = params![model, id.0];
            if !exists(c, "SELECT 1 FROM versions WHERE model = ?1 AND id = ?2", of)? {
                return Ok((Removal::Missing, None));
            }
            // The alias that a publish makes of the version's own number pins nothing.
            let pin = "SELECT alias FROM aliases WHERE model = ?1 AND id = ?2 AND alias <> ?3
                AND alias <> (SELECT number FROM versions WHERE model = ?1 AND id = ?2) LIMIT 1";
            let pin = c
                .query_row(pin, params![model, id.0, LATEST], |row| row.get(0))
                .optional()?;
            if let Some(alias) = pin {
                return Ok((Removal::Kept(Reason::Alias(alias)), None));
            }
            let release = "SELECT owner, name FROM releases AS r WHERE model = ?1 AND version = ?2 AND number =
                (SELECT max(number) FROM releases WHERE owner = r.owner AND name = r.name) LIMIT 1";
            let release = c
                .query_row(release, of, |row| Ok((row.get(0)?, row.get(1)?)))
                .optional()?;
            if let Some((owner, name)) = release {
                return Ok((Removal::Kept(Reason::Deployment { owner, name }), None));
            }
            let used = "SELECT 1 FROM usage WHERE model = ?1 AND version IN (?2, x'') AND owner <> ?3";
            // What has not ended counts as used only with its end.
            let begun = "SELECT 1 FROM predictions WHERE status < 2 AND model = ?1 AND version = ?2 AND owner <> ?3";
            let of = params![model, id.0, owner];
            if exists(c, used, of)? || exists(c, begun, of)? {
                return Ok((Removal::Kept(Reason::Others), None));
            }
            let of = params![model, id.0];
            c.execute("DELETE FROM aliases WHERE model = ?1 AND id = ?2", of)?;
            c.execute("DELETE FROM versions WHERE model = ?1 AND id = ?2", of)?;
            let apply = shows(move |snapshot| snapshot.model_mut(&model, 0).remove(id));
            Ok((Removal::Gone, apply))
        };
        self.writer.decide(work).await
    }

    /// Keeps a deployment's next release. Whether its version is still there and its number is the next.
    pub(crate) async fn release(&self, new: Deployment) -> Result<bool, StoreError> {
        let work = move |c: &Connection| -> Decided<bool> {
            let sql =
                "INSERT INTO releases (owner, name, number, model, version, hardware, min_instances, max_instances,
                created_at, created_by) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10
                WHERE EXISTS (SELECT 1 FROM versions WHERE model = ?4 AND id = ?5)
                AND ?3 = 1 + (SELECT coalesce(max(number), 0) FROM releases WHERE owner = ?1 AND name = ?2)";
            let released = c.execute(
                sql,
                params![
                    new.owner,
                    new.name,
                    new.number,
                    new.model,
                    new.version.0,
                    new.hardware,
                    new.min_instances,
                    new.max_instances,
                    new.created_at,
                    new.created_by
                ],
            )?;
            if released == 0 {
                return Ok((false, None));
            }
            Ok((true, shows(move |snapshot| snapshot.put_deployment(new))))
        };
        self.writer.decide(work).await
    }

    /// Forgets a deployment and its releases.
    pub(crate) async fn remove_deployment(&self, owner: Arc<str>, name: String) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> Written {
            c.execute(
                "DELETE FROM releases WHERE owner = ?1 AND name = ?2",
                params![owner, name],
            )?;
            Ok(Box::new(move |snapshot| snapshot.remove_deployment(&owner, &name)))
        };
        self.writer.change(work).await
    }

    /// Keeps a collection in place of any other of its slug.
    pub(crate) async fn put_collection(&self, collection: Collection) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> Written {
            let json = serde_json::to_string(&collection).unwrap_or_default();
            c.execute(
                "INSERT OR REPLACE INTO collections (slug, record) VALUES (?1, ?2)",
                params![collection.slug, json],
            )?;
            Ok(Box::new(move |snapshot| snapshot.put_collection(collection)))
        };
        self.writer.change(work).await
    }

    /// Forgets a collection.
    pub(crate) async fn remove_collection(&self, slug: String) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> Written {
            c.execute("DELETE FROM collections WHERE slug = ?1", [&slug])?;
            Ok(Box::new(move |snapshot| snapshot.remove_collection(&slug)))
        };
        self.writer.change(work).await
    }

    /// What the sandbox made of these versions' components, and their manifests.
    pub(crate) async fn prepared(&self, ids: Vec<VersionId>) -> Result<HashMap<VersionId, Prepared>, StoreError> {
        self.read(move |c| {
            let mut query = c.prepare_cached("SELECT prepared FROM versions WHERE id = ?1 LIMIT 1")?;
            let mut found = HashMap::with_capacity(ids.len());
            for id in ids {
                let json: Option<String> = query.query_row([id.0], |row| row.get(0)).optional()?;
                // A record that does not read is told of when the version is opened.
                if let Some(prepared) = json.and_then(|json| serde_json::from_str(&json).ok()) {
                    found.insert(id, prepared);
                }
            }
            Ok(found)
        })
        .await
    }

    /// Notes when tokens were last used: ids and Unix milliseconds.
    pub(crate) async fn used_tokens(&self, used: Vec<(String, i64)>) -> Result<(), StoreError> {
        self.write(move |c| {
            let mut update = c.prepare_cached("UPDATE tokens SET last_used_at = ?2 WHERE id = ?1")?;
            used.iter()
                .try_for_each(|(id, at)| update.execute(params![id, at]).map(|_| ()))
        })
        .await
    }
}

/// Reads what is kept of models, deployments and collections into a catalog that has the models.
pub(super) fn load(c: &Connection, snapshot: &mut Snapshot) -> Result<(), StoreError> {
    let mut query = c.prepare("SELECT name, private, card, runs FROM models")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let model = snapshot.model_mut(&name, 0);
        model.private = row.get(1)?;
        let card: String = row.get(2)?;
        let card = serde_json::from_str(&card);
        model.card = Arc::new(card.map_err(|e| StoreError::Damaged(format!("the card of {name}: {e}")))?);
        let runs = u64::try_from(row.get::<_, i64>(3)?).unwrap_or(0);
        model.runs.store(runs, std::sync::atomic::Ordering::Relaxed);
    }
    let sql =
        "SELECT owner, name, number, model, version, hardware, min_instances, max_instances, created_at, created_by
        FROM releases ORDER BY owner, name, number";
    let mut query = c.prepare(sql)?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        // The last release of each is the one that stays.
        snapshot.put_deployment(Deployment {
            owner: row.get::<_, String>(0)?.into(),
            name: row.get(1)?,
            number: row.get(2)?,
            model: row.get(3)?,
            version: VersionId(row.get(4)?),
            hardware: row.get(5)?,
            min_instances: row.get(6)?,
            max_instances: row.get(7)?,
            created_at: row.get(8)?,
            created_by: row.get(9)?,
        });
    }
    let mut query = c.prepare("SELECT slug, record FROM collections")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (slug, record): (String, String) = (row.get(0)?, row.get(1)?);
        let collection = serde_json::from_str(&record);
        snapshot.put_collection(collection.map_err(|e| StoreError::Damaged(format!("the collection {slug}: {e}")))?);
    }
    Ok(())
}

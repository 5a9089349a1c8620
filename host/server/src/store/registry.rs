//! What is written about models, deployments and collections beside their versions, and how it reads back.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::writer::Apply;
use super::{Store, StoreError, now_ms};
use crate::catalog::Snapshot;
use crate::engine::Prepared;
use crate::names::VersionId;
use crate::registry::{Card, Collection, Deployment};

type Written = rusqlite::Result<Apply>;

impl Store {
    /// Keeps what a model's owner says of it; a model that is not there yet is made.
    pub(crate) async fn put_model(&self, name: String, private: bool, card: Card) -> Result<(), StoreError> {
        let now = now_ms();
        let work = move |c: &Connection| -> Written {
            let json = serde_json::to_string(&card).unwrap_or_else(|_| "{}".to_owned());
            c.execute(
                "INSERT INTO models (name, created_at, private, card) VALUES (?1, ?2, ?3, ?4)
                 ON CONFLICT (name) DO UPDATE SET private = excluded.private, card = excluded.card",
                params![name, now, private, json],
            )?;
            Ok(Box::new(move |snapshot| {
                let model = snapshot.model_mut(&name, now);
                model.private = private;
                model.card = Arc::new(card);
            }))
        };
        self.writer.change(work).await
    }

    /// Removes a model without versions.
    pub(crate) async fn remove_model(&self, name: String) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> Written {
            c.execute("DELETE FROM models WHERE name = ?1", [&name])?;
            Ok(Box::new(move |snapshot| snapshot.remove_model(&name)))
        };
        self.writer.change(work).await
    }

    /// Removes a version of a model, with `latest` if that points at it.
    pub(crate) async fn remove_version(&self, model: String, id: VersionId) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> Written {
            c.execute("DELETE FROM aliases WHERE model = ?1 AND id = ?2", params![model, id.0])?;
            c.execute(
                "DELETE FROM versions WHERE model = ?1 AND id = ?2",
                params![model, id.0],
            )?;
            Ok(Box::new(move |snapshot| snapshot.model_mut(&model, 0).remove(id)))
        };
        self.writer.change(work).await
    }

    /// Whether anybody else than its owner has run a version of a model.
    pub(crate) async fn run_by_others(&self, model: String, id: VersionId) -> Result<bool, StoreError> {
        let owner = model.split('/').next().unwrap_or_default().to_owned();
        self.read(move |c| {
            let sql = "SELECT 1 FROM predictions WHERE model = ?1 AND version = ?2 AND owner <> ?3 LIMIT 1";
            c.query_row(sql, params![model, id.0, owner], |_| Ok(())).optional()
        })
        .await
        .map(|found| found.is_some())
    }

    /// Keeps a deployment's next release.
    pub(crate) async fn release(&self, new: Deployment) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> Written {
            c.execute(
                "INSERT INTO releases (owner, name, number, model, version, hardware, min_instances, max_instances, created_at,
                 created_by) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
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
            Ok(Box::new(move |snapshot| snapshot.put_deployment(new)))
        };
        self.writer.change(work).await
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

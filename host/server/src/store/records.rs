//! The queries: what is written, and how it reads back.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::registry::{Creation, is_full};
use super::{Store, StoreError, now_ms};
use crate::auth::{Scope, Scopes, Token};
use crate::catalog::{Snapshot, Version};
use crate::names::VersionId;
use crate::quarantine::{Health, Quarantine};
use crate::shelf::Slot;

/// A version that passed every step of publishing.
pub(crate) struct NewVersion {
    /// `owner/name`.
    pub(crate) model: String,
    /// When its model was made, if there was one when the publish began: it is published to that one, or not at all.
    pub(crate) model_made: Option<i64>,
    /// sha256 of `manifest`.
    pub(crate) id: VersionId,
    /// The semver in the manifest.
    pub(crate) number: String,
    /// The description in the manifest.
    pub(crate) description: String,
    /// Canonical JSON.
    pub(crate) manifest: String,
    /// JSON of what the sandbox made of the component.
    pub(crate) prepared: String,
    /// JSON of what it may use.
    pub(crate) granted: String,
    /// The aliases that point at it from now on.
    pub(crate) aliases: Vec<String>,
}

/// What is on disk about a version.
#[derive(Clone, Debug)]
pub(crate) struct StoredVersion {
    /// Canonical JSON.
    pub(crate) manifest: String,
    /// JSON of what the sandbox made of the component.
    pub(crate) prepared: String,
    /// JSON of what it was granted when it was published, if that was noted.
    pub(crate) granted: Option<String>,
}

impl Store {
    /// Makes a version visible, with its aliases and its model if there is none: all or nothing.
    pub(crate) async fn publish(&self, new: NewVersion) -> Result<Creation, StoreError> {
        let now = now_ms();
        let work = move |c: &Connection| -> rusqlite::Result<(Creation, Option<super::writer::Apply>)> {
            let found: Option<i64> = c
                .prepare_cached("SELECT created_at FROM models WHERE name = ?1")?
                .query_row([&new.model], |row| row.get(0))
                .optional()?;
            if new.model_made.is_some() && new.model_made != found {
                return Ok((Creation::Conflict, None));
            }
            if found.is_none() {
                if is_full(c, &new.model)? {
                    return Ok((Creation::TooMany, None));
                }
                c.prepare_cached("INSERT INTO models (name, created_at) VALUES (?1, ?2)")?
                    .execute(params![new.model, now])?;
            }
            c.prepare_cached(
                "INSERT INTO versions (model, id, number, description, manifest, prepared, created_at, granted)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (model, id) DO UPDATE SET prepared = excluded.prepared",
            )?
            .execute(params![new.model, new.id.0, new.number, new.description, new.manifest, new.prepared, now, new.granted])?;
            for alias in &new.aliases {
                point(c, &new.model, alias, new.id, now)?;
            }
            let apply: super::writer::Apply = Box::new(move |snapshot| {
                let model = snapshot.model_mut(&new.model, now);
                let version = Version {
                    id: new.id,
                    model: model.name.clone(),
                    number: new.number.into(),
                    description: new.description.into(),
                    created_at: now,
                    health: Arc::default(),
                    slot: Slot::default(),
                };
                model.add(version);
                for alias in new.aliases {
                    model.point(alias, new.id);
                }
            });
            Ok((Creation::Made, Some(apply)))
        };
        self.writer.decide(work).await
    }

    /// Points aliases at a version of the model, which must exist.
    pub(crate) async fn point(&self, model: String, aliases: Vec<String>, id: VersionId) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> rusqlite::Result<super::writer::Apply> {
            for alias in &aliases {
                point(c, &model, alias, id, now_ms())?;
            }
            Ok(Box::new(move |snapshot| {
                let model = snapshot.model_mut(&model, 0);
                for alias in aliases {
                    model.point(alias, id);
                }
            }))
        };
        self.writer.change(work).await
    }

    /// Replaces what the sandbox made of a component, for every model that has the version.
    pub(crate) async fn set_prepared(&self, id: VersionId, prepared: String) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> rusqlite::Result<super::writer::Apply> {
            c.execute(
                "UPDATE versions SET prepared = ?2 WHERE id = ?1",
                params![id.0, prepared],
            )?;
            Ok(Box::new(|_| {}))
        };
        self.writer.change(work).await
    }

    /// Notes why a model's version is not called any more. Blocks.
    pub(crate) fn quarantine(&self, model: String, id: VersionId, why: &Quarantine) -> Result<(), StoreError> {
        let json = serde_json::to_string(why).map_err(|e| StoreError::Damaged(e.to_string()))?;
        let sql = "UPDATE versions SET quarantine = ?3 WHERE model = ?1 AND id = ?2";
        self.write_blocking(move |c| c.execute(sql, params![model, id.0, json]).map(drop))
    }

    /// Notes that a model's version may be called again.
    pub(crate) async fn unquarantine(&self, model: String, id: VersionId) -> Result<(), StoreError> {
        let sql = "UPDATE versions SET quarantine = NULL WHERE model = ?1 AND id = ?2";
        self.write(move |c| c.execute(sql, params![model, id.0]).map(drop))
            .await
    }

    /// What is on disk about a version, if there is such a version.
    pub(crate) async fn version(&self, id: VersionId) -> Result<Option<StoredVersion>, StoreError> {
        let query = move |c: &Connection| {
            c.prepare_cached("SELECT manifest, prepared, granted FROM versions WHERE id = ?1 LIMIT 1")?
                .query_row([id.0], |row| {
                    Ok(StoredVersion {
                        manifest: row.get(0)?,
                        prepared: row.get(1)?,
                        granted: row.get(2)?,
                    })
                })
                .optional()
        };
        self.readers.read(query).await
    }

    /// The manifest of every version and what was made of its component, to learn what is in use.
    pub(crate) async fn kept(&self) -> Result<Vec<(String, String)>, StoreError> {
        let query = |c: &Connection| {
            c.prepare("SELECT manifest, prepared FROM versions")?
                .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
                .collect()
        };
        self.readers.read(query).await
    }

    /// Whether the database answers.
    pub(crate) async fn ping(&self) -> Result<(), StoreError> {
        self.readers.read(|c| c.query_row("SELECT 1", [], |_| Ok(()))).await
    }

    /// Keeps a token in place of any other with its id.
    pub(crate) async fn put_token(&self, token: Token) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> rusqlite::Result<super::writer::Apply> {
            let scopes = serde_json::to_string(&token.scopes.list()).unwrap_or_default();
            c.execute(
                "INSERT OR REPLACE INTO tokens (id, hash, owner, label, scopes, created_at, expires_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
                params![
                    token.id,
                    token.hash,
                    &*token.owner,
                    token.label,
                    scopes,
                    token.created_at,
                    token.expires_at
                ],
            )?;
            Ok(Box::new(move |snapshot| snapshot.put_token(token)))
        };
        self.writer.change(work).await
    }

    /// Forgets a token; from then on it opens nothing.
    pub(crate) async fn remove_token(&self, id: String) -> Result<(), StoreError> {
        let work = move |c: &Connection| -> rusqlite::Result<super::writer::Apply> {
            c.execute("DELETE FROM tokens WHERE id = ?1", [&id])?;
            Ok(Box::new(move |snapshot| snapshot.remove_token(&id)))
        };
        self.writer.change(work).await
    }
}

fn point(c: &Connection, model: &str, alias: &str, id: VersionId, now: i64) -> rusqlite::Result<usize> {
    c.prepare_cached(
        "INSERT INTO aliases (model, alias, id, updated_at) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (model, alias) DO UPDATE SET id = excluded.id, updated_at = excluded.updated_at",
    )?
    .execute(params![model, alias, id.0, now])
}

/// Reads the whole catalog.
pub(super) fn load(c: &Connection) -> Result<Snapshot, StoreError> {
    let mut snapshot = Snapshot::default();
    let mut query = c.prepare("SELECT name, created_at FROM models")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        snapshot.model_mut(&row.get::<_, String>(0)?, row.get(1)?);
    }
    let mut query =
        c.prepare("SELECT model, id, number, created_at, description, quarantine FROM versions ORDER BY sequence")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let model = snapshot.model_mut(&row.get::<_, String>(0)?, 0);
        let id = VersionId(row.get(1)?);
        let quarantine: Option<String> = row.get(5)?;
        let quarantine = quarantine
            .map(|json| serde_json::from_str::<Quarantine>(&json))
            .transpose();
        let quarantine = quarantine.map_err(|e| StoreError::Damaged(format!("the quarantine of version {id}: {e}")))?;
        let version = Version {
            id,
            model: model.name.clone(),
            number: row.get::<_, String>(2)?.into(),
            description: row.get::<_, String>(4)?.into(),
            created_at: row.get(3)?,
            health: Arc::new(Health::new(quarantine)),
            slot: Slot::default(),
        };
        model.add(version);
    }
    let mut query = c.prepare("SELECT model, alias, id FROM aliases")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        snapshot
            .model_mut(&row.get::<_, String>(0)?, 0)
            .point(row.get(1)?, VersionId(row.get(2)?));
    }
    super::registry::load(c, &mut snapshot)?;
    let mut query =
        c.prepare("SELECT id, hash, owner, label, scopes, created_at, expires_at, last_used_at FROM tokens")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let scopes: Vec<Scope> = serde_json::from_str(&row.get::<_, String>(4)?)
            .map_err(|e| StoreError::Damaged(format!("the scopes of token {id}: {e}")))?;
        snapshot.put_token(Token {
            id,
            hash: row.get(1)?,
            owner: row.get::<_, String>(2)?.into(),
            label: row.get(3)?,
            scopes: Scopes::of(&scopes),
            created_at: row.get(5)?,
            expires_at: row.get(6)?,
            last_used_at: Arc::new(AtomicI64::new(row.get::<_, Option<i64>>(7)?.unwrap_or(0))),
        });
    }
    Ok(snapshot)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::catalog::Catalog;

    fn new(n: u8, aliases: &[&str]) -> NewVersion {
        NewVersion {
            model: "o/m".to_owned(),
            model_made: None,
            id: VersionId([n; 32]),
            number: format!("{n}.0.0"),
            description: format!("version {n}"),
            manifest: format!("{{\"n\":{n}}}"),
            prepared: "{}".to_owned(),
            granted: "{}".to_owned(),
            aliases: aliases.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    fn seen(catalog: &Catalog) -> String {
        let now = catalog.now();
        let models = now.models(None).map(|m| {
            let versions: Vec<_> = m.newest_first(None).map(|v| v.number.to_string()).collect();
            let aliases: Vec<_> = m.aliases().map(|(alias, id)| format!("{alias}={}", id.0[0])).collect();
            format!("{} {:?} {versions:?} {aliases:?}", m.name, m.description())
        });
        models.collect::<Vec<_>>().join("\n")
    }

    #[tokio::test]
    async fn what_is_published_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Arc::new(Catalog::default());
        let store = Store::open(folder.path(), &catalog).unwrap();
        store.publish(new(1, &["latest", "1.0.0"])).await.unwrap();
        store.publish(new(2, &["latest"])).await.unwrap();
        store.publish(new(1, &["stable"])).await.unwrap();
        let token = Token {
            id: "t".into(),
            hash: [7; 32],
            owner: "o".into(),
            label: "l".into(),
            scopes: Scopes::of(&[Scope::Read]),
            created_at: 5,
            expires_at: None,
            last_used_at: Arc::default(),
        };
        store.put_token(token.clone()).await.unwrap();
        store
            .put_token(Token {
                id: "gone".into(),
                hash: [8; 32],
                ..token
            })
            .await
            .unwrap();
        store.remove_token("gone".into()).await.unwrap();
        store
            .set_prepared(VersionId([2; 32]), "{\"again\":true}".into())
            .await
            .unwrap();
        let before = seen(&catalog);
        assert_eq!(
            before,
            r#"o/m "version 2" ["2.0.0", "1.0.0"] ["1.0.0=1", "latest=2", "stable=1"]"#
        );
        drop(store);

        let catalog = Arc::new(Catalog::default());
        let store = Store::open(folder.path(), &catalog).unwrap();
        assert_eq!(seen(&catalog), before);
        let now = catalog.now();
        assert_eq!(now.tokens().count(), 1);
        assert_eq!(now.token(&[7; 32]).unwrap().scopes.list(), [Scope::Read]);
        let stored = store.version(VersionId([2; 32])).await.unwrap().unwrap();
        assert_eq!(
            (stored.manifest.as_str(), stored.prepared.as_str()),
            ("{\"n\":2}", "{\"again\":true}")
        );
        assert!(store.version(VersionId([9; 32])).await.unwrap().is_none());
        assert_eq!(store.kept().await.unwrap().len(), 2);
        store.ping().await.unwrap();
    }

    #[tokio::test]
    async fn an_alias_cannot_point_at_a_version_of_another_model() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Arc::new(Catalog::default());
        let store = Store::open(folder.path(), &catalog).unwrap();
        store.publish(new(1, &[])).await.unwrap();
        store
            .publish(NewVersion {
                model: "o/other".into(),
                ..new(2, &[])
            })
            .await
            .unwrap();
        assert!(
            store
                .point("o/m".into(), vec!["a".into()], VersionId([2; 32]))
                .await
                .is_err()
        );
        assert_eq!(catalog.now().model("o/m").unwrap().aliases().count(), 0);
    }
}

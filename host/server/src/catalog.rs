//! What is published, in memory: an immutable snapshot that every request reads without a lock held, replaced whole by the
//! store's writer after each commit. A registered version costs a few hundred bytes here; the rest stays on disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, PoisonError, RwLock};

use crate::auth::{Principal, Token};
use crate::names::VersionId;
use crate::quarantine::Health;
use crate::registry::{Card, Collection, Deployment};
use crate::shelf::Slot;

/// The alias that a path without a version stands for.
pub(crate) const LATEST: &str = "latest";

/// A published version.
#[derive(Debug)]
pub(crate) struct Version {
    /// sha256 of the canonical manifest.
    pub(crate) id: VersionId,
    /// The model it belongs to, as `owner/name`.
    pub(crate) model: Arc<str>,
    /// The release's number in the manifest, such as `1.2.0`.
    pub(crate) number: Box<str>,
    /// What its manifest says of it.
    pub(crate) description: Box<str>,
    /// Unix milliseconds.
    pub(crate) created_at: i64,
    /// Whether it is called at all.
    pub(crate) health: Arc<Health>,
    /// Where the version is kept open while it is being called.
    pub(crate) slot: Slot,
}

/// A model and its versions.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    /// `owner/name`.
    pub(crate) name: Arc<str>,
    /// Unix milliseconds.
    pub(crate) created_at: i64,
    /// Whether only its owner and admins know of it.
    pub(crate) private: bool,
    /// What its owner says of it.
    pub(crate) card: Arc<Card>,
    /// How often its versions were called.
    pub(crate) runs: Arc<AtomicU64>,
    /// Ids from the oldest to the newest.
    order: Vec<VersionId>,
    versions: HashMap<VersionId, Arc<Version>>,
    aliases: BTreeMap<String, Arc<Version>>,
}

impl Model {
    /// A model without versions.
    pub(crate) fn new(name: Arc<str>, created_at: i64) -> Self {
        Self {
            name,
            created_at,
            private: false,
            card: Arc::default(),
            runs: Arc::default(),
            order: Vec::new(),
            versions: HashMap::new(),
            aliases: BTreeMap::new(),
        }
    }

    /// The version that an id or alias stands for. Nothing stands for [`LATEST`], or else for the newest version.
    pub(crate) fn resolve(&self, reference: Option<&str>) -> Option<&Arc<Version>> {
        match reference {
            None => self.aliases.get(LATEST).or_else(|| self.newest()),
            Some(text) => match VersionId::parse(text) {
                Some(id) => self.versions.get(&id),
                None => self.aliases.get(text),
            },
        }
    }

    /// What its owner says of it, else its newest version.
    pub(crate) fn description(&self) -> &str {
        let newest = || self.newest().map_or("", |version| &version.description);
        self.card.description.as_deref().unwrap_or_else(newest)
    }

    /// The version published last.
    pub(crate) fn newest(&self) -> Option<&Arc<Version>> {
        self.order.last().and_then(|id| self.versions.get(id))
    }

    /// From the newest to the oldest, starting behind a version if one is given.
    pub(crate) fn newest_first(&self, after: Option<&VersionId>) -> impl Iterator<Item = &Arc<Version>> {
        let end = match after {
            None => self.order.len(),
            Some(id) => self.order.iter().position(|other| other == id).unwrap_or(0),
        };
        self.order[..end].iter().rev().filter_map(|id| self.versions.get(id))
    }

    /// How many versions there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// The aliases and the ids they stand for.
    pub(crate) fn aliases(&self) -> impl Iterator<Item = (&str, VersionId)> {
        self.aliases.iter().map(|(alias, version)| (alias.as_str(), version.id))
    }

    /// The aliases of one version.
    pub(crate) fn aliases_of(&self, id: VersionId) -> Vec<&str> {
        self.aliases()
            .filter(|(_, of)| *of == id)
            .map(|(alias, _)| alias)
            .collect()
    }

    /// Adds a version, if it is not there yet.
    pub(crate) fn add(&mut self, version: Version) {
        if self.versions.contains_key(&version.id) {
            return;
        }
        self.order.push(version.id);
        self.versions.insert(version.id, Arc::new(version));
    }

    /// Removes a version and the aliases that point at it.
    pub(crate) fn remove(&mut self, id: VersionId) {
        self.order.retain(|other| *other != id);
        self.versions.remove(&id);
        self.aliases.retain(|_, version| version.id != id);
    }

    /// Whether somebody may know of the model.
    pub(crate) fn is_visible_to(&self, principal: &Principal) -> bool {
        let owner = self.name.split('/').next().unwrap_or_default();
        !self.private || principal.is_admin() || **principal.owner() == *owner
    }

    /// Points an alias at a version of this model; an unknown version changes nothing.
    pub(crate) fn point(&mut self, alias: String, id: VersionId) {
        if let Some(version) = self.versions.get(&id) {
            self.aliases.insert(alias, Arc::clone(version));
        }
    }
}

/// Everything that is published, and every token, at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    models: BTreeMap<Arc<str>, Arc<Model>>,
    tokens: HashMap<[u8; 32], Arc<Token>>,
    deployments: BTreeMap<(Arc<str>, String), Arc<Deployment>>,
    collections: BTreeMap<String, Arc<Collection>>,
}

impl Snapshot {
    /// The model called `owner/name`.
    pub(crate) fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.get(name)
    }

    /// The model called `owner/name`, if somebody may know of it.
    pub(crate) fn visible(&self, principal: &Principal, name: &str) -> Option<&Arc<Model>> {
        self.model(name).filter(|model| model.is_visible_to(principal))
    }

    /// The version with an id, of the first model by name that has it and that somebody may know of.
    pub(crate) fn version(&self, principal: &Principal, id: &VersionId) -> Option<&Arc<Version>> {
        let visible = self.models.values().filter(|model| model.versions.contains_key(id));
        visible
            .filter(|model| model.is_visible_to(principal))
            .find_map(|model| model.versions.get(id))
    }

    /// Forgets a model.
    pub(crate) fn remove_model(&mut self, name: &str) {
        self.models.remove(name);
    }

    /// An owner's deployment.
    pub(crate) fn deployment(&self, owner: &Arc<str>, name: &str) -> Option<&Arc<Deployment>> {
        self.deployments.get(&(Arc::clone(owner), name.to_owned()))
    }

    /// Every deployment, by owner and name.
    pub(crate) fn deployments(&self) -> impl Iterator<Item = &Arc<Deployment>> {
        self.deployments.values()
    }

    /// Adds a deployment's release in place of the one before.
    pub(crate) fn put_deployment(&mut self, new: Deployment) {
        let key = (Arc::clone(&new.owner), new.name.clone());
        self.deployments.insert(key, Arc::new(new));
    }

    /// Forgets a deployment.
    pub(crate) fn remove_deployment(&mut self, owner: &Arc<str>, name: &str) {
        self.deployments.remove(&(Arc::clone(owner), name.to_owned()));
    }

    /// Every collection, by slug.
    pub(crate) fn collections(&self) -> impl Iterator<Item = &Arc<Collection>> {
        self.collections.values()
    }

    /// The collection of a slug.
    pub(crate) fn collection(&self, slug: &str) -> Option<&Arc<Collection>> {
        self.collections.get(slug)
    }

    /// Adds a collection in place of any other of its slug.
    pub(crate) fn put_collection(&mut self, new: Collection) {
        self.collections.insert(new.slug.clone(), Arc::new(new));
    }

    /// Forgets a collection.
    pub(crate) fn remove_collection(&mut self, slug: &str) {
        self.collections.remove(slug);
    }

    /// Models by name, starting behind one if it is given.
    pub(crate) fn models(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Model>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let start = after.map_or(Unbounded, Excluded);
        self.models.range::<str, _>((start, Unbounded)).map(|(_, model)| model)
    }

    /// A model to change, made if it is not there.
    pub(crate) fn model_mut(&mut self, name: &str, created_at: i64) -> &mut Model {
        let name: Arc<str> = name.into();
        let model = self
            .models
            .entry(Arc::clone(&name))
            .or_insert_with(|| Arc::new(Model::new(name, created_at)));
        Arc::make_mut(model)
    }

    /// How many models and versions there are.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.models.len(), self.models.values().map(|model| model.len()).sum())
    }

    /// How many versions are quarantined.
    pub(crate) fn quarantined(&self) -> usize {
        let versions = self.models.values().flat_map(|model| model.versions.values());
        versions.filter(|version| version.health.quarantine().is_some()).count()
    }

    /// The token whose text has this sha256.
    pub(crate) fn token(&self, hash: &[u8; 32]) -> Option<&Arc<Token>> {
        self.tokens.get(hash)
    }

    /// Every token, in no order.
    pub(crate) fn tokens(&self) -> impl Iterator<Item = &Arc<Token>> {
        self.tokens.values()
    }

    /// Adds a token in place of any other with its id.
    pub(crate) fn put_token(&mut self, token: Token) {
        self.remove_token(&token.id);
        self.tokens.insert(token.hash, Arc::new(token));
    }

    /// Removes a token by its id.
    pub(crate) fn remove_token(&mut self, id: &str) {
        self.tokens.retain(|_, token| token.id != id);
    }
}

/// The current snapshot.
#[derive(Debug, Default)]
pub(crate) struct Catalog(RwLock<Arc<Snapshot>>);

impl Catalog {
    /// The state as it is now; later changes do not show in it.
    pub(crate) fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the state. Only the store's writer does this, so that changes follow their commits.
    pub(crate) fn replace(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = snapshot;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn id(n: u8) -> VersionId {
        VersionId([n; 32])
    }

    fn version(n: u8) -> Version {
        let slot = Slot::default();
        Version {
            id: id(n),
            model: "o/m".into(),
            number: format!("{n}.0.0").into(),
            description: "".into(),
            created_at: i64::from(n),
            health: Arc::default(),
            slot,
        }
    }

    fn model(versions: &[u8], aliases: &[(&str, u8)]) -> Model {
        let mut model = Model::new("o/m".into(), 0);
        for n in versions {
            model.add(version(*n));
        }
        for (alias, n) in aliases {
            model.point((*alias).to_owned(), id(*n));
        }
        model
    }

    #[test]
    fn a_reference_is_an_id_an_alias_or_the_latest() {
        let m = model(&[1, 2, 3], &[("latest", 2), ("stable", 1), ("9.9.9", 9)]);
        let resolve = |reference: Option<&str>| m.resolve(reference).map(|v| v.id);
        assert_eq!(resolve(None), Some(id(2)), "latest, even if a newer version exists");
        assert_eq!(resolve(Some("stable")), Some(id(1)));
        assert_eq!(resolve(Some(&id(3).to_string())), Some(id(3)));
        for unknown in ["nope", "", "9.9.9", &id(7).to_string(), &id(3).to_string()[..63]] {
            assert_eq!(resolve(Some(unknown)), None, "{unknown}");
        }
        let unnamed = model(&[1, 2], &[("stable", 1)]);
        assert_eq!(
            unnamed.resolve(None).map(|v| v.id),
            Some(id(2)),
            "without `latest`, the newest"
        );
        assert!(model(&[], &[]).resolve(None).is_none());
    }

    #[test]
    fn pages_of_versions_start_behind_the_cursor() {
        let m = model(&[1, 2, 3, 4], &[]);
        let ids = |after: Option<u8>| {
            let after = after.map(id);
            m.newest_first(after.as_ref()).map(|v| v.id.0[0]).collect::<Vec<_>>()
        };
        assert_eq!(ids(None), [4, 3, 2, 1]);
        assert_eq!(ids(Some(3)), [2, 1]);
        assert_eq!(ids(Some(1)), [0_u8; 0]);
        assert_eq!(ids(Some(99)), [0_u8; 0], "a cursor that is not there ends the list");
    }

    #[test]
    fn a_snapshot_never_changes_under_its_reader() {
        let catalog = Catalog::default();
        let before = catalog.now();
        let mut next = (*before).clone();
        next.model_mut("o/m", 0).add(version(1));
        catalog.replace(next);
        assert!(before.model("o/m").is_none());
        assert_eq!(catalog.now().count(), (1, 1));
    }

    proptest! {
        #[test]
        fn an_alias_always_points_at_a_version_that_exists(moves in proptest::collection::vec((0_u8..4, 0_u8..12), 0..60)) {
            let mut m = model(&[0, 1, 2, 3, 4, 5], &[]);
            let mut expected = BTreeMap::new();
            for (alias, to) in moves {
                m.point(format!("a{alias}"), id(to));
                if to <= 5 {
                    expected.insert(format!("a{alias}"), id(to));
                }
            }
            for alias in 0..4 {
                let name = format!("a{alias}");
                prop_assert_eq!(m.resolve(Some(&name)).map(|v| v.id), expected.get(&name).copied());
            }
        }
    }
}

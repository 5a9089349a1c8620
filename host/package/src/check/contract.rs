//! The contract itself, from the same files that every guest is built against.

use std::fmt;

use semver::Version;
use wit_parser::{InterfaceId, Resolve, SourceMap, World, WorldItem};

pub(super) const FILES: [(&str, &str); 10] = [
    ("assets.wit", include_str!("../../../../wit/assets.wit")),
    ("files.wit", include_str!("../../../../wit/files.wit")),
    ("predictor.wit", include_str!("../../../../wit/predictor.wit")),
    ("programs.wit", include_str!("../../../../wit/programs.wit")),
    ("kv-cache.wit", include_str!("../../../../wit/kv-cache.wit")),
    ("run.wit", include_str!("../../../../wit/run.wit")),
    ("tensors.wit", include_str!("../../../../wit/tensors.wit")),
    ("types.wit", include_str!("../../../../wit/types.wit")),
    ("weights.wit", include_str!("../../../../wit/weights.wit")),
    ("world.wit", include_str!("../../../../wit/world.wit")),
];

/// The world `model`.
pub(super) struct Contract {
    pub(super) resolve: Resolve,
    world: World,
}

/// An interface's name, such as `wasi:io/streams@0.2.6`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Name {
    /// `wasi:io`, or nothing for a plain name.
    pub(super) package: String,
    /// `streams`.
    pub(super) interface: String,
    pub(super) version: Option<Version>,
}

/// Reads the contract.
pub(super) fn contract() -> Result<Contract, String> {
    let mut files = SourceMap::new();
    for (path, text) in FILES {
        files.push_str(path, text);
    }
    let group = files.parse().map_err(|(_, error)| error.to_string())?;
    let mut resolve = Resolve::default();
    let package = resolve.push_group(group).map_err(|error| error.to_string())?;
    let world = resolve
        .select_world(&[package], Some("model"))
        .map_err(|error| error.to_string())?;
    let world = resolve.worlds[world].clone();
    Ok(Contract { resolve, world })
}

impl Contract {
    /// What a component may import of it.
    pub(super) fn imports(&self) -> impl Iterator<Item = (Name, InterfaceId)> {
        self.named(self.world.imports.iter())
    }

    /// What a component must export.
    pub(super) fn exports(&self) -> impl Iterator<Item = Name> {
        self.named(self.world.exports.iter()).map(|(name, _)| name)
    }

    /// The interface that a component imports under this name, whatever its version.
    pub(super) fn import(&self, name: &Name) -> Option<(Name, InterfaceId)> {
        self.imports().find(|(ours, _)| ours.bare() == name.bare())
    }

    /// The interface that a component exports under this name, whatever its version.
    pub(super) fn export(&self, name: &Name) -> Option<(Name, InterfaceId)> {
        self.named(self.world.exports.iter())
            .find(|(ours, _)| ours.bare() == name.bare())
    }

    fn named<'a>(
        &'a self,
        items: impl Iterator<Item = (&'a wit_parser::WorldKey, &'a WorldItem)>,
    ) -> impl Iterator<Item = (Name, InterfaceId)> {
        items.filter_map(|(key, item)| match item {
            WorldItem::Interface { id, .. } => Some((Name::parse(&self.resolve.name_world_key(key)), *id)),
            _ => None,
        })
    }
}

impl Name {
    pub(super) fn parse(full: &str) -> Self {
        let (path, version) = match full.split_once('@') {
            Some((path, version)) => (path, Version::parse(version).ok()),
            None => (full, None),
        };
        let (package, interface) = path.split_once('/').unwrap_or(("", path));
        Self {
            package: package.to_owned(),
            interface: interface.to_owned(),
            version,
        }
    }

    /// The name without its version.
    pub(super) fn bare(&self) -> (&str, &str) {
        (&self.package, &self.interface)
    }

    /// Whether a host that has `self` serves a component that was made for `wanted`: nothing but additions lie between them.
    pub(super) fn serves(&self, wanted: &Name) -> bool {
        match (&self.version, &wanted.version) {
            (Some(ours), Some(theirs)) => {
                let same_minor = ours.major == theirs.major && ours.minor == theirs.minor;
                same_minor || ours.major == theirs.major && ours.major > 0
            }
            (ours, theirs) => ours == theirs,
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.package.is_empty() {
            write!(f, "{}/", self.package)?;
        }
        f.write_str(&self.interface)?;
        if let Some(version) = &self.version {
            write!(f, "@{version}")?;
        }
        Ok(())
    }
}

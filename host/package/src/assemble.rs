//! From a contributor's folder to a package: built, checked, fetched, every byte in the blob store, and one id for all of it.

use std::path::{Path, PathBuf};

use crate::blobs::BlobStore;
use crate::cases::{self, Case};
use crate::manifest::Manifest;
use crate::source::Fetcher;
use crate::toolchain::{self, Toolchain};
use crate::version::{self, Blob, VersionManifest};
use crate::{Digest, Error, Note, Progress, Result, build, check, folder, shards};

/// The model card's file.
const README: &str = "README.md";

/// A version that is ready to be run or published: all its blobs are in the store.
#[derive(Clone, Debug)]
pub struct Package {
    /// What `maquette.toml` says.
    pub source: Manifest,
    /// What the version is.
    pub manifest: VersionManifest,
    /// The version's id.
    pub id: Digest,
    /// Its cases, files inlined.
    pub cases: Vec<Case>,
    /// Where the component was built. The store has it too.
    pub component: PathBuf,
    /// What [`check::check`] found; nothing in it is an error.
    pub report: check::Report,
}

/// [`assemble_with`] the default options.
pub fn assemble<'t>(
    dir: &Path,
    store: &BlobStore,
    toolchain: impl Into<Option<&'t Toolchain>>,
    progress: &mut dyn Progress,
) -> Result<Package> {
    assemble_with(dir, store, toolchain, &build::Options::default(), progress)
}

/// Builds the component of the folder `dir`, checks it against the world, fetches weights and assets, reads cases and model card,
/// puts every blob into the store and computes the id. Without a toolchain it is readied ([`toolchain::ready`]), if there is
/// something to build.
///
/// What can be wrong without a build or a download (manifest, cases) is found first.
pub fn assemble_with<'t>(
    dir: &Path,
    store: &BlobStore,
    toolchain: impl Into<Option<&'t Toolchain>>,
    options: &build::Options,
    progress: &mut dyn Progress,
) -> Result<Package> {
    let source = Manifest::read(dir)?;
    let cases = cases::read_dir(dir.join("cases"))?;
    let readme = read_readme(dir)?;
    let component = match (build::prebuilt(dir, &source)?, toolchain.into()) {
        (Some(component), _) => component,
        (None, Some(toolchain)) => build::build_with(dir, &source, toolchain, options, progress)?,
        (None, None) => build::build_with(dir, &source, &toolchain::ready(progress)?, options, progress)?,
    };
    let wasm = folder::read_bytes(&component, version::MAX_COMPONENT + 1)?;
    let report = check::check(&wasm);
    if !report.ok() {
        return Err(Error::Component {
            place: component.display().to_string(),
            report: Box::new(report),
        });
    }
    let fetcher = Fetcher::new(dir, store);
    let mut manifest = VersionManifest {
        schema: version::SCHEMA,
        name: source.model.name.clone(),
        version: source.model.version.clone(),
        description: source.model.description.clone(),
        license: source.model.license.clone(),
        task: source.model.task.clone(),
        deterministic: source.model.deterministic,
        component: put(store, &wasm)?,
        weights: Default::default(),
        assets: Default::default(),
        limits: source.limits,
        cases: Vec::new(),
        readme: readme.map(|text| put(store, &text)).transpose()?,
    };
    for (kind, name, entry) in source.entries() {
        let fetched = fetcher.fetch(entry, progress)?;
        if fetched.size == 0 {
            let what = format!("{} is empty", shards::heading(kind, name));
            return Err(Error::Source(Note::new(
                &entry.source,
                what,
                "name a file with something in it",
            )));
        }
        let blobs = if kind == "weights" {
            &mut manifest.weights
        } else {
            &mut manifest.assets
        };
        blobs.insert(
            name.to_owned(),
            Blob {
                sha256: fetched.digest,
                size: fetched.size,
            },
        );
    }
    for case in &cases {
        manifest.cases.push(put(store, case.to_json()?.as_bytes())?);
    }
    manifest.check()?;
    Ok(Package {
        id: manifest.id(),
        source,
        manifest,
        cases,
        component,
        report,
    })
}

impl Package {
    /// The sum of the sizes of all blobs, in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.manifest.total_bytes()
    }
}

fn put(store: &BlobStore, bytes: &[u8]) -> Result<Blob> {
    Ok(Blob {
        sha256: store.put_bytes(bytes)?,
        size: bytes.len() as u64,
    })
}

fn read_readme(dir: &Path) -> Result<Option<Vec<u8>>> {
    let path = dir.join(README);
    if !path.is_file() {
        return Ok(None);
    }
    let text = folder::read_text(&path, version::MAX_TEXT)?;
    Ok((!text.is_empty()).then(|| text.into_bytes()))
}

#[cfg(test)]
mod tests;

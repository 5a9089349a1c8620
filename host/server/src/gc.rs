//! At start: removes what no version uses and what has lain for long: blobs, such as those of a publish that never ended, and compiled
//! components, such as those of versions that were removed or of another build of this program.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use maquette_package::version::VersionManifest;

use crate::app::App;
use crate::engine::Prepared;

/// Removes old orphans; returns how many. Runs before the server takes requests, so nothing is being published meanwhile.
pub(crate) async fn collect(app: &App, age: Duration) -> Result<usize, String> {
    let (mut used, mut compiled) = (HashSet::new(), HashSet::new());
    for (manifest, prepared) in app.store.kept().await.map_err(|e| e.to_string())? {
        // A record that does not read may use anything: then nothing is removed.
        let manifest =
            VersionManifest::from_json(&manifest).map_err(|e| format!("a stored manifest does not read: {e}"))?;
        used.extend(manifest.digests().map(|digest| digest.to_string()));
        let prepared: Prepared = serde_json::from_str(&prepared)
            .map_err(|e| format!("a stored record of preparation does not read: {e}"))?;
        compiled.insert(prepared.artifact);
    }
    let (blobs, cache) = (std::sync::Arc::clone(&app.blobs), app.preparer.cache().to_owned());
    let work = tokio::task::spawn_blocking(move || {
        let mut removed = 0;
        for digest in blobs.list().map_err(|e| e.to_string())? {
            if !used.contains(&digest.to_string()) && blobs.path(&digest).is_some_and(|path| is_older(&path, age)) {
                blobs.remove(&digest).map_err(|e| e.to_string())?;
                removed += 1;
            }
        }
        let fail = |e: std::io::Error| format!("{}: {e}", cache.display());
        for entry in std::fs::read_dir(&cache).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let kept = entry.file_name().to_str().is_some_and(|name| compiled.contains(name));
            if !kept && is_older(&entry.path(), age) {
                std::fs::remove_file(entry.path()).map_err(fail)?;
                removed += 1;
            }
        }
        Ok(removed)
    });
    work.await.map_err(|e| e.to_string())?
}

fn is_older(path: &Path, age: Duration) -> bool {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|when| SystemTime::now().duration_since(when).is_ok_and(|since| since > age))
}

//! At start: removes blobs that no version uses and that have lain for long, such as those of a publish that never ended.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use maquette_package::version::VersionManifest;

use crate::app::App;

/// Removes old orphans; returns how many. Runs before the server takes requests, so nothing is being published meanwhile.
pub(crate) async fn collect(app: &App, age: Duration) -> Result<usize, String> {
    let manifests = app.store.manifests().await.map_err(|e| e.to_string())?;
    let mut used = HashSet::new();
    for text in &manifests {
        // A manifest that does not read may use any blob: then nothing is removed.
        let manifest = VersionManifest::from_json(text).map_err(|e| format!("a stored manifest does not read: {e}"))?;
        used.extend(manifest.digests().map(|digest| digest.to_string()));
    }
    let blobs = std::sync::Arc::clone(&app.blobs);
    let work = tokio::task::spawn_blocking(move || {
        let mut removed = 0;
        for digest in blobs.list().map_err(|e| e.to_string())? {
            if used.contains(&digest.to_string()) {
                continue;
            }
            let modified = blobs
                .path(&digest)
                .and_then(|path| std::fs::metadata(path).ok()?.modified().ok());
            let old =
                modified.is_some_and(|when| SystemTime::now().duration_since(when).is_ok_and(|since| since > age));
            if old {
                blobs.remove(&digest).map_err(|e| e.to_string())?;
                removed += 1;
            }
        }
        Ok(removed)
    });
    work.await.map_err(|e| e.to_string())?
}

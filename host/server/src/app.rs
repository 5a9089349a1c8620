//! Everything that requests share, put together once at start.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::HeaderMap;
use maquette_package::blobs::BlobStore;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{Semaphore, watch};

use crate::StartError;
use crate::admission::Bounds;
use crate::auth::{self, Principal, Scope, Scopes, Token};
use crate::catalog::{Catalog, Snapshot};
use crate::config::Config;
use crate::engine::Sandboxes;
use crate::files::Files;
use crate::grant::Offer;
use crate::http::body::Memory;
use crate::http::connections::Connections;
use crate::http::streams::Streams;
use crate::http::uploads::Uploads;
use crate::lanes::Lanes;
use crate::metrics::Metrics;
use crate::outbound::Outbound;
use crate::predictions::Predictions;
use crate::predictions::billing::Spend;
use crate::predictions::cache::Cache;
use crate::predictions::record::Prediction;
use crate::prepare::Preparer;
use crate::problem::Problem;
use crate::secrets::Secrets;
use crate::shelf::Shelf;
use crate::store::{Store, now_ms};
use crate::webhooks::Deliveries;

/// The admin token's file name inside the data folder, and its id in the catalog.
const TOKEN_FILE: &str = "admin.token";

/// What requests share.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) secrets: Secrets,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) store: Arc<Store>,
    pub(crate) blobs: Arc<BlobStore>,
    pub(crate) sandboxes: Sandboxes,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) shelf: Shelf,
    /// What versions can get.
    pub(crate) offer: Offer,
    pub(crate) lanes: Lanes,
    pub(crate) predictions: Predictions,
    pub(crate) metrics: Arc<Metrics>,
    /// What callers sent and outputs left.
    pub(crate) files: Files,
    /// Webhooks on their way.
    pub(crate) deliveries: Deliveries,
    /// Memory for bodies being read and parsed.
    pub(crate) memory: Memory,
    pub(crate) publishes: Semaphore,
    /// Those that may be on their way.
    pub(crate) uploads: Uploads,
    /// Those that may be open.
    pub(crate) connections: Arc<Connections>,
    /// Those that may be open.
    pub(crate) streams: Streams,
    /// Set once, when the server begins to stop.
    pub(crate) stopping: AtomicBool,
    /// Turns true when what still runs has had its time to finish.
    pub(crate) halt: watch::Sender<bool>,
    /// The admin token's text.
    pub(crate) admin_token: String,
    /// Who calls when authentication is off.
    anyone: Principal,
    /// Held for as long as the server uses the data folder.
    _lock: fs::File,
}

impl App {
    /// Opens the data folder and starts everything but the network. Blocks.
    pub(crate) fn open(config: Config) -> Result<(Self, Token), StartError> {
        let data = config.data.clone();
        let folder = |path: &Path| -> Result<PathBuf, StartError> {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(path)
                .map_err(|e| StartError::file(path, e))?;
            Ok(path.to_owned())
        };
        folder(&data)?;
        let lock = lock(&data.join("lock"))?;
        let admin_token = admin_token(&data.join(TOKEN_FILE))?;
        let secrets = Secrets::open(&data)?;
        let blobs = folder(&data.join("blobs"))?;
        let blobs = BlobStore::open(&blobs).map_err(|e| StartError::Blobs(e.to_string()))?;
        let cache = folder(&data.join("cache"))?;
        let cache = fs::canonicalize(&cache).map_err(|e| StartError::file(&cache, e))?;
        let outbound = Outbound::new(&config.outbound_allow).map_err(StartError::Setting)?;
        let catalog = Arc::new(Catalog::default());
        let store = Arc::new(Store::open(&data, &catalog).map_err(|e| StartError::Store(e.to_string()))?);

        let lanes = match config.lanes {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            lanes => lanes,
        };
        let threads = lanes + crate::lanes::background(lanes);
        let sandboxes = Sandboxes::start(&config, &cache, threads).map_err(StartError::Engine)?;
        let bounds = Bounds {
            lanes,
            queue: config.queue_limit,
            wait: config.queue_wait,
            bytes: config.queue_bytes,
        };
        let looking = sandboxes.clone();
        let interrupt = Box::new(move || looking.interrupt());
        let lanes = Lanes::start(bounds, config.lane_nice, interrupt).map_err(StartError::Threads)?;
        let (blobs, metrics) = (Arc::new(blobs), Arc::new(Metrics::new()));
        let preparer = Arc::new(Preparer::new(config.prepare.clone(), cache));
        let offer = Offer {
            allowed: config.grant,
            present: sandboxes.present(),
        };
        let shelf = Shelf::new(
            Arc::clone(&store),
            Arc::clone(&blobs),
            sandboxes.clone(),
            Arc::clone(&preparer),
            Arc::clone(&metrics),
            offer,
            config.open_versions,
            config.idle,
        );
        let memory = Memory::new(config.body_memory_bytes);
        let files = Files::open(
            &config,
            Arc::clone(&store),
            secrets.clone(),
            outbound.clone(),
            memory.clone(),
            Arc::clone(&metrics),
        )?;
        let deliveries = Deliveries::new(
            &config,
            Arc::clone(&store),
            secrets.clone(),
            outbound,
            Arc::clone(&metrics),
        );
        let admin = Token {
            id: TOKEN_FILE.to_owned(),
            hash: auth::hash(&admin_token),
            owner: auth::ADMIN_OWNER.into(),
            label: "made at the first start".to_owned(),
            scopes: Scopes::of(&[Scope::Admin]),
            created_at: now_ms(),
            expires_at: None,
            last_used_at: Arc::default(),
        };
        let cache = Cache::new(config.cache_bytes, config.cache_time);
        let app = Self {
            predictions: Predictions::new(cache, Spend::default()),
            memory,
            files,
            deliveries,
            publishes: Semaphore::new(config.publishes.max(1)),
            uploads: Uploads::new(),
            connections: Connections::new(config.connections.max(1)),
            streams: Streams::new(config.connections, config.streams_per_owner),
            stopping: AtomicBool::new(false),
            halt: watch::Sender::new(false),
            config,
            secrets,
            catalog,
            store,
            blobs,
            sandboxes,
            preparer,
            shelf,
            offer,
            lanes,
            metrics,
            admin_token,
            anyone: Principal::anyone(),
            _lock: lock,
        };
        Ok((app, admin))
    }
}

impl App {
    /// Who sent a request; anybody, if authentication is off.
    pub(crate) fn authenticate(&self, snapshot: &Snapshot, headers: &HeaderMap) -> Result<Principal, Problem> {
        if self.config.auth {
            auth::authenticate(snapshot, headers)
        } else {
            Ok(self.anyone.clone())
        }
    }

    /// Who sent a request, if they may do what needs this scope.
    pub(crate) fn authorize(&self, headers: &HeaderMap, scope: Scope) -> Result<(Principal, Arc<Snapshot>), Problem> {
        let snapshot = self.catalog.now();
        let principal = self.authenticate(&snapshot, headers)?;
        principal.require(scope)?;
        Ok((principal, snapshot))
    }
}

impl App {
    /// A prediction has ended, on disk as well.
    pub(crate) fn ended(&self, row: &Prediction) {
        if let Some(model) = self.catalog.now().model(&row.model) {
            model.runs.fetch_add(1, Ordering::Relaxed);
        }
        if row.webhook.is_some() {
            self.deliveries.finished(&row.owner, &row.id);
        }
        tracing::debug!(id = %row.id, model = %row.model, status = row.status.name(), "a prediction ended");
    }
}

/// Takes the data folder for this process alone.
fn lock(path: &Path) -> Result<fs::File, StartError> {
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(|e| StartError::file(path, e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(StartError::InUse(path.parent().unwrap_or(path).display().to_string()))
        }
        Err(e) => Err(StartError::file(path, e.into())),
    }
}

/// Reads the admin token; the first start makes it. Whoever removes the file and restarts gets a new one.
fn admin_token(path: &Path) -> Result<String, StartError> {
    let sound = |text: &str| text.starts_with(auth::PREFIX) && text.len() >= 20;
    secret_file(path, sound, auth::new_secret)
}

/// Reads a secret that only the server's user can read; makes it if there is none that is sound.
pub(crate) fn secret_file(
    path: &Path,
    sound: impl Fn(&str) -> bool,
    make: impl FnOnce() -> Result<String, getrandom::Error>,
) -> Result<String, StartError> {
    use std::io::Write as _;
    let fail = |e| StartError::file(path, e);
    match fs::read_to_string(path) {
        Ok(text) if sound(text.trim()) => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(fail(e)),
    }
    let secret = make().map_err(|e| fail(std::io::Error::other(e.to_string())))?;
    let partial = path.with_extension("partial");
    // What a crash has left would keep its permissions.
    let _ = fs::remove_file(&partial);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(fail)?;
    writeln!(file, "{secret}")
        .and_then(|()| file.sync_all())
        .map_err(fail)?;
    fs::rename(&partial, path).map_err(fail)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_admin_token_is_made_once_and_for_the_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(TOKEN_FILE);
        let first = admin_token(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(admin_token(&path).unwrap(), first);
        fs::write(&path, "").unwrap();
        let second = admin_token(&path).unwrap();
        assert_ne!(second, first, "an empty file is no token");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_data_folder_is_locked_until_its_server_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(StartError::InUse(_))));
        drop(held);
        lock(&path).unwrap();
    }
}

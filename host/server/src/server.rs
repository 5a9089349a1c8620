//! A running server: starting it, and stopping it so that nobody loses a call.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::StartError;
use crate::app::App;
use crate::config::Config;
use crate::predictions::live::Live;
use crate::{gc, http, predictions};

/// How often idle versions are looked for.
const SWEEP: Duration = Duration::from_secs(15);

/// How often expired files and old deliveries are looked for, at least.
const FORGET: Duration = Duration::from_secs(60);
/// Connections that the system holds until they are accepted, if it lets us. Beyond them a client tries again after a second, so
/// that the usual 128 make a crowd slow.
const BACKLOG: u32 = 4096;

/// How long connections may take to hand over their last bytes once every call has ended.
const FLUSH: Duration = Duration::from_secs(5);

/// A running server. Dropping it stops it without waiting for calls; [`Server::stop`] waits.
pub struct Server {
    address: SocketAddr,
    app: Arc<App>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Server {
    /// Opens the data folder, starts the lanes and listens.
    ///
    /// # Errors
    /// What is in the way, and how to get it out.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        raise_file_limit();
        let bind = config.bind;
        let opened = tokio::task::spawn_blocking(move || App::open(config)).await;
        let (app, admin) = opened.map_err(|e| StartError::Engine(e.to_string()))??;
        // The one that is there knows since when, and when it was last used.
        if app.catalog.now().token(&admin.hash).is_none() {
            let put = app.store.put_token(admin).await;
            put.map_err(|e| StartError::Store(e.to_string()))?;
        }
        if let Some(age) = app.config.orphan_age {
            match gc::collect(&app, age).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(
                    removed,
                    "removed old blobs and compiled components that no version uses"
                ),
                Err(why) => tracing::warn!(why, "old blobs and compiled components were not looked for"),
            }
        }
        app.files.reconcile().await.map_err(StartError::Store)?;
        let fail = |cause| StartError::Bind { address: bind, cause };
        let listener = listen(bind).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        if !app.config.auth && !address.ip().is_loopback() {
            tracing::warn!(%address, "authentication is off: everybody who reaches this address is an admin");
        }
        let app = Arc::new(app);
        predictions::load_spend(&app)
            .await
            .map_err(|e| StartError::Store(e.to_string()))?;
        let adopted = predictions::adopt(&app)
            .await
            .map_err(|e| StartError::Store(e.to_string()))?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(live(Arc::clone(&app), listener, adopted, stopped));
        let (models, versions) = app.catalog.now().count();
        tracing::info!(%address, models, versions, "listening");
        Ok(Self {
            address,
            app,
            stop: Some(stop),
            task,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The token that allows everything.
    pub fn admin_token(&self) -> &str {
        &self.app.admin_token
    }

    /// The file that holds it, readable by the server's user only.
    pub fn admin_token_file(&self) -> PathBuf {
        self.app.config.data.join("admin.token")
    }

    /// Stops: takes no new connections, lets running calls finish within the configured limit, cancels the rest, and closes the
    /// data folder.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.stop.is_some() {
            self.app.stopping.store(true, Ordering::Relaxed);
            self.task.abort();
        }
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A server that starts again is not kept out by connections of the one before.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

async fn live(app: Arc<App>, listener: TcpListener, adopted: Vec<Arc<Live>>, stopped: oneshot::Receiver<()>) {
    let connections = GracefulShutdown::new();
    let sweeping = {
        let (period, app) = (
            SWEEP.min(app.config.idle.max(Duration::from_millis(50))),
            Arc::downgrade(&app),
        );
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(period);
            loop {
                tick.tick().await;
                let Some(app) = app.upgrade() else { return };
                app.shelf.sweep();
            }
        })
    };
    let _sweeping = AbortOnDrop(sweeping);
    if !adopted.is_empty() {
        tracing::info!(count = adopted.len(), "predictions that had not ended are run again");
        let resuming = Arc::clone(&app);
        app.predictions
            .tasks
            .spawn(async move { predictions::resume(&resuming, adopted).await });
    }
    let tending = {
        let app = Arc::downgrade(&app);
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_secs(1));
            for second in 0.. {
                tick.tick().await;
                let Some(app) = app.upgrade() else { return };
                predictions::sweep(&app, second).await;
            }
        })
    };
    let _tending = AbortOnDrop(tending);
    let _forgetting = AbortOnDrop(tokio::spawn(forget(Arc::downgrade(&app))));
    let mut sending: Vec<_> = app.deliveries.start().into_iter().map(AbortOnDrop).collect();
    tokio::select! {
        () = http::listen(&app, listener, &connections) => {}
        _ = stopped => {}
    }
    // The listener is closed now; what was accepted is served.
    app.stopping.store(true, Ordering::Relaxed);
    let mut closed = std::pin::pin!(connections.shutdown());
    if tokio::time::timeout(app.config.drain, &mut closed).await.is_err() {
        tracing::warn!("calls did not finish in time and are cancelled");
        app.halt.send_replace(true);
        close_lanes(&app).await;
        let _ = tokio::time::timeout(FLUSH, &mut closed).await;
    }
    close_lanes(&app).await;
    // What has ended is written; what has not is left to the next start.
    app.halt.send_replace(true);
    app.predictions.tasks.close();
    if tokio::time::timeout(FLUSH, app.predictions.tasks.wait()).await.is_err() {
        tracing::warn!("some predictions' ends were not written in time; the next start runs them again");
    }
    predictions::close(&app).await;
    // What is on its way is sent again after the next start.
    for task in &mut sending {
        task.0.abort();
        let _ = (&mut task.0).await;
    }
    tracing::info!("stopped");
}

/// Removes, every now and then, what is not kept for ever: expired files and old deliveries.
async fn forget(app: Weak<App>) {
    loop {
        let Some(period) = app.upgrade().map(|app| {
            let shortest = app
                .config
                .file_ttl
                .min(app.config.output_ttl)
                .min(app.config.delivery_log);
            (shortest / 4).clamp(Duration::from_millis(100), FORGET)
        }) else {
            return;
        };
        tokio::time::sleep(period).await;
        let Some((files, deliveries)) = app.upgrade().map(|app| (app.files.clone(), app.deliveries.clone())) else {
            return;
        };
        for result in [files.sweep().await.map(|_| ()), deliveries.sweep().await] {
            if let Err(e) = result {
                tracing::warn!("what has expired could not be removed: {e}");
            }
        }
    }
}

/// Ends the lanes' threads, cancelling what is still on them.
async fn close_lanes(app: &Arc<App>) {
    let app = Arc::clone(app);
    let _ = tokio::task::spawn_blocking(move || app.lanes.close(Duration::ZERO)).await;
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Every open version and every connection is a file; the usual soft limit of 1024 is too few.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if limit.current != limit.maximum
        && let Err(e) = setrlimit(Resource::Nofile, raised)
    {
        tracing::warn!("the limit on open files could not be raised: {e}");
    }
}

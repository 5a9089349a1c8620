//! The REST service: publishing, running, looking at models; scheduler, catalog, auth, metrics.
//!
//! Handlers (`http`) parse, services (`run`, `publish`) decide, state (`store`, `catalog`, `shelf`, `lanes`) holds. [`Server`]
//! starts and stops it all inside any tokio runtime.

mod admission;
mod app;
mod auth;
mod catalog;
mod config;
mod engine;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod gc;
mod grant;
mod http;
mod ids;
mod keyed;
mod lanes;
mod machine;
mod metrics;
mod names;
mod openapi;
mod outbound;
mod predictions;
mod prepare;
mod problem;
mod publish;
mod quarantine;
mod redact;
mod registry;
mod run;
pub mod schema;
mod secrets;
mod server;
mod shelf;
mod shutdown;
mod store;
mod webhooks;

use std::path::Path;

pub use config::{Config, Grant, PrepareCommand};
pub use prepare::prepare_main;
pub use server::Server;
pub use shutdown::stop_requested;

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another server uses the data folder.
    #[error("the data folder {0} is in use by another server: stop that one, or choose another folder with --data")]
    InUse(String),
    /// A file or folder could not be made or read.
    #[error("{path}: {cause}")]
    File {
        /// Where.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {cause}; choose another address with --bind")]
    Bind {
        /// What was asked for.
        address: std::net::SocketAddr,
        /// Why not.
        cause: std::io::Error,
    },
    /// The catalog's database could not be opened.
    #[error("{0}")]
    Store(String),
    /// The blob store could not be opened.
    #[error("the blob store: {0}")]
    Blobs(String),
    /// The sandbox engine or the tensor runtime could not be started.
    #[error("{0}")]
    Engine(String),
    /// A setting does not read.
    #[error("{0}")]
    Setting(String),
    /// Threads could not be started.
    #[error("starting threads: {0}")]
    Threads(std::io::Error),
}

impl StartError {
    pub(crate) fn file(path: &Path, cause: std::io::Error) -> Self {
        Self::File {
            path: path.display().to_string(),
            cause,
        }
    }
}

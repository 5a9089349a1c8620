//! Memory of a registered, idle version: what a freshly started server holds with many versions in its data folder, less what it
//! holds with none.

use std::path::{Path, PathBuf};
use std::time::Duration;

use maquette_package::Digest;
use maquette_server::Server;
use serde::{Deserialize, Serialize};

use super::children::{self, Child};
use super::figure::{anonymous_memory, median};
use super::http::{config, manifest};
use super::{Aim, Effort, Figure, guest};
use crate::client::Client;
use crate::commands::serve::runtime;
use crate::failure::{Failure, Result};

/// Versions registered.
const VERSIONS: usize = 500;

/// What the child is to serve.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    data: PathBuf,
}

/// What the child holds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Held {
    bytes: u64,
}

/// Registers the versions and measures.
pub(crate) fn measure(folder: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let versions = effort.rounds(VERSIONS);
    let (full, empty) = (folder.join("memory-full"), folder.join("memory-empty"));
    register(&full, versions)?;
    let held = |data: &PathBuf| -> Result<f64> {
        let three = (0..3).map(|_| children::ask::<_, Held>(Child::Memory, &Task { data: data.clone() }));
        Ok(median(
            three.map(|h| h.map(|h| h.bytes as f64)).collect::<Result<Vec<_>>>()?,
        ))
    };
    // The first start of a folder makes its database.
    held(&empty)?;
    let (with, without) = (held(&full)?, held(&empty)?);
    let each = (with - without).max(0.0) / versions as f64 / 1024.0;
    Ok(vec![Figure {
        id: "memory.idle_version_kib",
        what: "memory of a registered, idle version".to_owned(),
        value: each,
        unit: "KiB",
        aim: Aim::Most(50.0),
        how: format!(
            "anonymous memory of a started server with {versions} versions ({:.1} MiB) less one with none ({:.1} MiB), by their number",
            with / 1048576.0,
            without / 1048576.0
        ),
    }])
}

fn register(data: &Path, versions: usize) -> Result<()> {
    let wasm = guest::echo()?;
    let component = data.with_extension("wasm");
    std::fs::write(&component, &wasm).map_err(|e| Failure::file("write", &component, &e))?;
    let runtime = runtime()?;
    let server = runtime.block_on(Server::start(config(data.to_owned())))?;
    let client = Client::new(
        &format!("http://{}", server.address()),
        Some(server.admin_token().to_owned()),
    );
    client.put_blob(&Digest::of(&wasm), &component, &mut maquette_package::Silent)?;
    for i in 0..versions {
        client
            .publish("bench", &manifest(&wasm, &format!("number {i}")), &[], true)
            .map(drop)?;
    }
    runtime.block_on(server.stop());
    Ok(())
}

/// A server that has just started and that nobody calls.
pub(crate) fn child(task: &Task) -> Result<Held> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let server = Server::start(config(task.data.clone())).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let bytes = anonymous_memory();
        server.stop().await;
        Ok(Held { bytes })
    })
}

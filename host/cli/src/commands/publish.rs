//! `maquette publish`: a model becomes a version on a server; only the blobs that the server lacks are sent.

use std::path::PathBuf;

use maquette_package::blobs::BlobStore;
use maquette_package::version::{Blob, VersionManifest};
use maquette_package::{Digest, Package, Progress};
use serde_json::{Value, json};

use crate::client::{Client, ServerArgs};
use crate::failure::{Failure, Result};
use crate::local::{self, Host};
use crate::report::count;
use crate::ui::{Ui, bytes, time};

/// Who a model belongs to where nobody says.
pub(crate) const OWNER: &str = "local";

const EXAMPLES: &str = "\
Examples:
  maquette publish                                             to the server on this machine
  maquette publish plugins/minilm --owner acme --alias stable
  maquette publish --server https://models.example --token mqt_…

The version's id is the sha256 of its canonical manifest: publishing the same model again changes nothing, and says so.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's folder.
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Under whose name; else the manifest's `owner`, else `local`.
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// An alias to point at the version; `latest` unless given. The version's own number always is one.
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// Do not run the cases here first; the server runs them anyway.
    #[arg(long)]
    skip_tests: bool,
    #[command(flatten)]
    server: ServerArgs,
}

/// What was published.
pub(crate) struct Published {
    /// `owner/name`.
    pub(crate) model: String,
    /// The version's id.
    pub(crate) id: Digest,
    /// The aliases that point at it.
    pub(crate) aliases: Vec<String>,
    /// How many blobs were sent.
    pub(crate) sent: usize,
    /// How many bytes those are.
    pub(crate) sent_bytes: u64,
}

/// Builds, tests and publishes.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let client = Client::from_args(&args.server)?;
    // A server that is not there is better known before a build than after it.
    client.get("/healthz")?;
    let store = local::store()?;
    let package = local::assemble(&args.dir, &store, ui)?;
    if !args.skip_tests {
        let model = Host::start()?.open(local::parts(&package.manifest, &store)?)?;
        let took = super::test::all(&model, &package.cases, ui)?;
        ui.step(
            "tested",
            format!("{} in {}", count(package.cases.len() as u64, "case"), time(took)),
        );
    }
    let owner = owner(args.owner.as_deref(), &package);
    let published = publish(&client, &owner, &package.manifest, &args.aliases, &store, ui)?;
    let run = format!(
        "{}/v1/models/{}/versions/{}/run",
        client.base(),
        published.model,
        published.id
    );
    let document = json!({
        "model": published.model,
        "version": package.manifest.version,
        "id": published.id,
        "aliases": published.aliases,
        "sent_blobs": published.sent,
        "sent_bytes": published.sent_bytes,
        "run": run,
    });
    ui.result(&document, |ui| {
        format!(
            "{} {}\n  id       {}\n  aliases  {}\n  run      {run}\n",
            ui.strong(&published.model),
            package.manifest.version,
            published.id,
            published.aliases.join(", "),
        )
    })
}

/// Who a package is published for.
pub(crate) fn owner(asked: Option<&str>, package: &Package) -> String {
    asked
        .or(package.source.model.owner.as_deref())
        .unwrap_or(OWNER)
        .to_owned()
}

/// Sends what the server lacks and makes the version visible.
pub(crate) fn publish(
    client: &Client,
    owner: &str,
    manifest: &VersionManifest,
    aliases: &[String],
    store: &BlobStore,
    ui: &mut Ui,
) -> Result<Published> {
    let blobs: Vec<Blob> = manifest.blobs().collect();
    let missing = client.missing(&blobs)?;
    let sent_bytes = missing.iter().map(|b| b.size).sum();
    if !missing.is_empty() {
        let what = format!("sending {}", count(missing.len() as u64, "blob"));
        ui.begin(&what, Some(sent_bytes));
        let sent = missing.iter().try_for_each(|blob| {
            let path = store.path(&blob.sha256).ok_or_else(|| {
                Failure::environment(format!("the blob {} has vanished from the cache", blob.sha256))
                    .help("run the command again")
            })?;
            client.put_blob(&blob.sha256, &path, ui)
        });
        ui.end();
        sent?;
        ui.step(
            "sent",
            format!(
                "{} of {} ({})",
                missing.len(),
                count(blobs.len() as u64, "blob"),
                bytes(sent_bytes)
            ),
        );
    }
    ui.begin("the server checks, compiles and tests it", None);
    let aliases: Vec<String> = if aliases.is_empty() {
        vec!["latest".to_owned()]
    } else {
        aliases.to_vec()
    };
    let answer = client.publish(owner, manifest, &aliases);
    ui.end();
    let answer = answer?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    Ok(Published {
        model: text(&answer["model"]).unwrap_or_else(|| format!("{owner}/{}", manifest.name)),
        id: manifest.id(),
        aliases: answer["aliases"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(text)
            .collect(),
        sent: missing.len(),
        sent_bytes,
    })
}

//! `maquette publish`: a model becomes a version on a server; only the blobs that the server lacks are sent.

use std::io::{BufRead, IsTerminal as _};
use std::path::PathBuf;

use maquette_package::blobs::BlobStore;
use maquette_package::version::{Blob, VersionManifest};
use maquette_package::{Digest, Package, Progress};
use serde_json::{Value, json};

use crate::client::{Client, ServerArgs};
use crate::failure::{Exit, Failure, Result};
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
  maquette publish --yes                                       even if it asks for more than the version before

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
    /// Agree that the version asks for more than the one before: more time, more memory, another interface.
    #[arg(long, short)]
    yes: bool,
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
    let consent = if args.yes { Consent::Given } else { Consent::Asked };
    let published = publish(&client, &owner, &package.manifest, &args.aliases, consent, &store, ui)?;
    ui.step(
        "asks for",
        local::limits_line(&local::parts(&package.manifest, &store)?.limits),
    );
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

/// Who says yes to a version that asks for more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    /// Nobody has to be asked.
    Given,
    /// Whoever sits at the terminal.
    Asked,
}

/// Sends what the server lacks and makes the version visible.
pub(crate) fn publish(
    client: &Client,
    owner: &str,
    manifest: &VersionManifest,
    aliases: &[String],
    consent: Consent,
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
    let answer = client.publish(owner, manifest, &aliases, consent == Consent::Given);
    ui.end();
    let answer = match answer? {
        Ok(answer) => answer,
        Err(grew) => {
            agree(&grew, ui)?;
            ui.begin("the server checks, compiles and tests it", None);
            let answer = client.publish(owner, manifest, &aliases, true);
            ui.end();
            answer?.map_err(|grew| unconfirmed(&grew))?
        }
    };
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

/// Asks whoever sits there whether a version may ask for more than the one before.
fn agree(grew: &[Value], ui: &Ui) -> Result<()> {
    if ui.is_json() || !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(unconfirmed(grew));
    }
    eprintln!("it asks for more than the version before:\n{}", listed(grew));
    eprint!("publish it? [y/N] ");
    if says_yes(&mut std::io::stdin().lock()) {
        Ok(())
    } else {
        Err(unconfirmed(grew))
    }
}

fn says_yes(input: &mut impl BufRead) -> bool {
    let mut line = String::new();
    let read = input.read_line(&mut line);
    read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

fn unconfirmed(grew: &[Value]) -> Failure {
    Failure::new(
        Exit::Server,
        "nothing was published: it asks for more than the version before",
    )
    .help("run it again with --yes to agree, or ask for less in [limits] of maquette.toml")
    .detail(Some(listed(grew)))
}

/// What grew, a field a line.
fn listed(grew: &[Value]) -> String {
    let lines = grew.iter().map(|field| {
        let name = field["field"].as_str().unwrap_or_default();
        let amount = |value: &Value| match value.as_u64() {
            Some(n) if name.ends_with("_bytes") => bytes(n),
            _ => value.to_string(),
        };
        match (field["before"].as_array(), field["now"].as_array()) {
            (Some(before), Some(now)) => {
                let new = now
                    .iter()
                    .filter(|import| !before.contains(import))
                    .filter_map(Value::as_str);
                format!("  {name}: {}", new.collect::<Vec<_>>().join(", "))
            }
            _ => format!(
                "  {name}: {}, before {}",
                amount(&field["now"]),
                amount(&field["before"])
            ),
        }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grew_is_told_in_sizes_and_names() {
        let grew = [
            json!({"field": "memory_bytes", "before": 1 << 20, "now": 1 << 30}),
            json!({"field": "timeout_ms", "before": 5, "now": 6}),
            json!({"field": "imports", "before": ["a/run"], "now": ["a/files", "a/run"]}),
        ];
        let told = listed(&grew);
        assert_eq!(
            told,
            format!(
                "  memory_bytes: {}, before {}\n  timeout_ms: 6, before 5\n  imports: a/files",
                bytes(1 << 30),
                bytes(1 << 20)
            )
        );
        let failure = unconfirmed(&grew);
        assert!(
            failure.help.contains("--yes") && failure.detail == Some(told),
            "{failure:?}"
        );
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        for (answer, yes) in [
            ("y\n", true),
            ("Yes\n", true),
            ("\n", false),
            ("", false),
            ("yep\n", false),
            ("n\n", false),
        ] {
            assert_eq!(says_yes(&mut answer.as_bytes()), yes, "{answer:?}");
        }
    }
}

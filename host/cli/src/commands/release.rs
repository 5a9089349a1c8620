//! `maquette release`: a quarantined version may be called again.

use serde_json::json;

use super::inspect::Remote;
use crate::client::ServerArgs;
use crate::failure::{Failure, Result};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  maquette release acme/minilm@1.0.0
  maquette release acme/minilm@1.0.0 --server https://models.example --token mqt_…

A version whose calls break every time is quarantined; `maquette inspect OWNER/NAME@VERSION` says why. A version never changes: if it is
the version that is wrong, publish another one instead.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// OWNER/NAME[@VERSION], or a version's URL.
    #[arg(value_name = "VERSION")]
    version: String,
    #[command(flatten)]
    server: ServerArgs,
}

/// Tells the server.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let remote = Remote::parse(&args.version).ok_or_else(|| {
        Failure::usage(format!("`{}` names no version on a server", args.version))
            .help("write it as OWNER/NAME@VERSION")
    })?;
    let client = remote.client(&args.server)?;
    let Remote {
        owner, name, version, ..
    } = &remote;
    let answer = client.post(
        &format!("/v1/models/{owner}/{name}/versions/{version}/release"),
        &json!({}),
    )?;
    ui.result(&answer, |_| {
        let was = if answer["released"] == true {
            "may be called again"
        } else {
            "was not quarantined"
        };
        format!("{owner}/{name}@{version} {was}\n")
    })
}

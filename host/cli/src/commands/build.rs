//! `maquette build`: a model's component, checked against the contract.

use std::path::PathBuf;
use std::time::Instant;

use maquette_package::manifest::Manifest;
use maquette_package::{build, check, toolchain};
use serde_json::json;

use crate::failure::{Exit, Failure, Result};
use crate::sdk;
use crate::ui::{Ui, bytes, time};

const EXAMPLES: &str = "\
Examples:
  maquette build                         the model in this folder
  maquette build my-model -o model.wasm  and a copy of its component

The first build on a machine readies the target wasm32-wasip2, through rustup or the distribution's packages, and says so.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's folder.
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Copy the component to this file.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Do not use the network.
    #[arg(long)]
    offline: bool,
}

/// Builds, checks and prints where the component is.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let started = Instant::now();
    // Weights play no part here, so they need no digest yet.
    let manifest = Manifest::read_unpinned(&args.dir)?;
    let mut component = match build::prebuilt(&args.dir, &manifest)? {
        Some(prebuilt) => prebuilt,
        None => {
            let toolchain = toolchain::ready(ui)?;
            let options = build::Options {
                offline: args.offline,
                ..sdk::build_options(&args.dir)?
            };
            build::build_with(&args.dir, &manifest, &toolchain, &options, ui)?
        }
    };
    let wasm = std::fs::read(&component).map_err(|e| Failure::file("read the component", &component, &e))?;
    let report = check::check(&wasm);
    if !report.ok() {
        return Err(
            Failure::new(Exit::Failed, "the component is not one that the host can run")
                .at(component.display())
                .detail(Some(report.to_string())),
        );
    }
    if let Some(output) = &args.output {
        std::fs::write(output, &wasm).map_err(|e| Failure::file("write the component", output, &e))?;
        component.clone_from(output);
    }
    ui.step(
        "built",
        format!(
            "{} ({}, {})",
            manifest.model.name,
            bytes(report.size),
            time(started.elapsed())
        ),
    );
    let document =
        json!({"name": manifest.model.name, "component": component, "size": report.size, "problems": report.problems});
    ui.result(&document, |_| format!("{}\n", component.display()))
}

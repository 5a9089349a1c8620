//! `maquette bench`: this machine's figures. Each that matters is a ratio of two things measured in turns in one run, so that a
//! busy machine slows both.

mod call;
mod children;
mod figure;
mod guest;
mod http;
mod load;
mod memory;
mod model;
mod native;
mod ops;
mod restart;
mod same;

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;

use crate::failure::{Failure, Result};
use crate::local::{Host, On};
use crate::ui::{Ui, time};

pub(crate) use figure::{Aim, Figure};

const EXAMPLES: &str = "\
Examples:
  maquette bench                       everything; MiniLM if its folder is here
  maquette bench plugins/minilm        with MiniLM from there
  maquette bench --only call,ops       two of the groups
  maquette bench --json > figures.json

Build with --release: a debug build of this binary measures itself. It takes up to three minutes. With --device the groups call, ops and
model run there; the others stay on the processor.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The folder of the MiniLM model; `plugins/minilm` if it is there.
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The folder of a decoder; `plugins/smollm2` if it is there.
    #[arg(long, value_name = "DIR")]
    decoder: Option<PathBuf>,
    /// Only these groups.
    #[arg(long, value_delimiter = ',', value_enum, value_name = "GROUP,…")]
    only: Vec<Group>,
    /// A tenth of the rounds: rough figures in seconds.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    on: On,
    /// Be one of the processes that are measured.
    #[arg(long, hide = true, value_enum)]
    child: Option<children::Child>,
}

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Group {
    /// A trivial component's whole call in a fresh sandbox, over bare wasmtime.
    Call,
    /// One eager op's crossing, over native candle.
    Ops,
    /// The same call over HTTP, against a native axum handler.
    Http,
    /// MiniLM through the sandbox, against the same forward in native candle.
    Model,
    /// Programs of MiniLM and of a decoder through the sandbox, against the same programs without it.
    Same,
    /// The first call after a restart.
    Restart,
    /// Memory of a registered, idle version.
    Memory,
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    quick: bool,
}

impl Effort {
    /// So many rounds, or a tenth.
    pub(crate) fn rounds(self, n: usize) -> usize {
        if self.quick { (n / 10).max(3) } else { n }
    }
}

/// Measures and prints the table.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    if let Some(child) = args.child {
        return children::run(child);
    }
    let device = args.on.check()?;
    if cfg!(debug_assertions) {
        ui.warn(
            "this is a debug build: the figures are of no use but to see that the command works; build with --release",
        );
    }
    let started = Instant::now();
    let effort = Effort { quick: args.quick };
    let wanted = |group| args.only.is_empty() || args.only.contains(&group);
    let mut figures: Vec<Figure> = Vec::new();
    let host = Host::start_on(device)?;
    let files = tempfile::tempdir().map_err(|e| Failure::environment(format!("a folder cannot be made: {e}")))?;

    let mut group = |ui: &Ui, which: Group, what: &str, work: &mut dyn FnMut() -> Result<Vec<Figure>>| -> Result<()> {
        if !wanted(which) {
            return Ok(());
        }
        ui.step("measuring", what);
        figures.extend(work()?);
        Ok(())
    };
    group(ui, Group::Call, "a trivial call in a fresh sandbox", &mut || {
        call::measure(&host, files.path(), effort)
    })?;
    group(ui, Group::Ops, "one eager op", &mut || {
        ops::measure(&host, files.path(), effort)
    })?;
    group(ui, Group::Http, "the trivial call over HTTP", &mut || {
        http::measure(files.path(), effort)
    })?;
    let minilm = if [Group::Model, Group::Same, Group::Restart].into_iter().any(wanted) {
        model::find(args.dir.as_deref(), &host, ui)?
    } else {
        None
    };
    match &minilm {
        Some(minilm) => {
            group(ui, Group::Model, "MiniLM against native candle", &mut || {
                model::measure(minilm, effort)
            })?;
        }
        None if wanted(Group::Model) => {
            ui.warn("MiniLM is not measured: name its folder, `maquette bench plugins/minilm`")
        }
        None => {}
    }
    if let Some(minilm) = &minilm {
        group(
            ui,
            Group::Same,
            "MiniLM's program with and without the sandbox",
            &mut || same::minilm(&host, minilm, files.path(), effort),
        )?;
    }
    if wanted(Group::Same) {
        match same::find(args.decoder.as_deref(), &host, ui)? {
            Some(decoder) => group(
                ui,
                Group::Same,
                "a decoder's step with and without the sandbox",
                &mut || same::decoder(&host, &decoder, effort),
            )?,
            None => ui.warn("no decoder is measured: name its folder with --decoder"),
        }
    }
    group(ui, Group::Restart, "the first call after a restart", &mut || {
        restart::measure(&host, files.path(), minilm.as_ref(), effort)
    })?;
    group(ui, Group::Memory, "memory of registered versions", &mut || {
        memory::measure(files.path(), effort)
    })?;

    let took = started.elapsed();
    let machine = machine();
    let document = json!({
        "machine": machine,
        "device": device.to_string(),
        "release": !cfg!(debug_assertions),
        "quick": args.quick,
        "seconds": took.as_secs_f64(),
        "figures": figures.iter().map(Figure::to_json).collect::<Vec<_>>(),
    });
    ui.result(&document, |ui| {
        let mut out = format!("{}\n\n", ui.faint(&machine));
        out.push_str(&figure::table(ui, &figures));
        out.push_str(&format!("\nmeasured in {}\n", time(took)));
        out
    })
}

/// The machine in a line.
fn machine() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = cpus
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .and_then(|l| l.split_once(':'));
    let name = name.map_or("unknown processor", |(_, name)| name.trim());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?").to_owned();
    format!(
        "{name}, {threads} threads, load {load}, maquette {}",
        env!("CARGO_PKG_VERSION")
    )
}

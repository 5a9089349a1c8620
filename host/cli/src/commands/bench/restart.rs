//! The first call after a restart: a fresh process opens a version from the caches and calls it once.

use std::path::{Path, PathBuf};
use std::time::Instant;

use maquette_sandbox::{Call, Guest, Parts, Prepared};
use serde::{Deserialize, Serialize};

use super::children::{self, Child};
use super::figure::median;
use super::model::MiniLm;
use super::{Aim, Effort, Figure, guest};
use crate::failure::{Failure, Result};
use crate::local::{self, Host, on_big_stack};

/// What the child is to open and call.
#[derive(Serialize, Deserialize)]
pub(crate) struct Task {
    parts: Parts,
    prepared: Prepared,
    input: String,
    cache: PathBuf,
}

/// How long it took, in milliseconds.
#[derive(Serialize, Deserialize)]
pub(crate) struct Took {
    /// To start the engine and the tensor runtime.
    start: f64,
    /// To open the version.
    open: f64,
    /// The first call.
    first: f64,
    /// The second one.
    second: f64,
}

/// Measures a weightless component, and MiniLM if there is one.
pub(crate) fn measure(host: &Host, folder: &Path, minilm: Option<&MiniLm>, effort: Effort) -> Result<Vec<Figure>> {
    let echo = host.open(guest::parts(folder, "restart-echo.wasm", &guest::echo()?)?)?;
    let mut figures = Vec::new();
    let task = Task {
        parts: echo.parts.clone(),
        prepared: echo.prepared.clone(),
        input: r#"{"text":"hello"}"#.to_owned(),
        cache: local::compiled(),
    };
    figures.extend(of(
        &task,
        ["restart.echo_ms", "restart.echo_start_ms"],
        "a weightless component",
        5.0,
        effort,
    )?);
    if let Some(minilm) = minilm {
        let task = Task {
            parts: minilm.model.parts.clone(),
            prepared: minilm.model.prepared.clone(),
            input: minilm.single.input(),
            cache: local::compiled(),
        };
        figures.extend(of(
            &task,
            ["restart.minilm_ms", "restart.minilm_start_ms"],
            "MiniLM",
            50.0,
            effort,
        )?);
    }
    Ok(figures)
}

fn of(task: &Task, ids: [&'static str; 2], what: &str, aim: f64, effort: Effort) -> Result<Vec<Figure>> {
    let processes = effort.rounds(11);
    let runs = (0..processes)
        .map(|_| children::ask::<_, Took>(Child::Restart, task))
        .collect::<Result<Vec<_>>>()?;
    let of = |part: fn(&Took) -> f64| median(runs.iter().map(part).collect());
    let how = format!("wall time, median of {processes} fresh processes, code and weights in the page cache");
    Ok(vec![
        Figure {
            id: ids[0],
            what: format!("first call of {what} after a restart"),
            value: of(|t| t.open + t.first),
            unit: "ms",
            aim: Aim::Most(aim),
            how: format!(
                "{how}: open {:.1} ms, first call {:.1} ms (second {:.1} ms)",
                of(|t| t.open),
                of(|t| t.first),
                of(|t| t.second)
            ),
        },
        Figure {
            id: ids[1],
            what: "  with starting engine and tensor runtime".to_owned(),
            value: of(|t| t.start + t.open + t.first),
            unit: "ms",
            aim: Aim::None,
            how: "the same processes; a server does this once".to_owned(),
        },
    ])
}

/// The fresh process.
pub(crate) fn child(task: &Task) -> Result<Took> {
    let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
    let at = Instant::now();
    let host = Host::start_in(&task.cache, maquette_tensor::Device::Cpu)?;
    let start = ms(at);
    on_big_stack(|| {
        let at = Instant::now();
        let guest = Guest::open(host.engine(), host.runtime(), &task.parts, &task.prepared)?;
        let open = ms(at);
        let call = || -> Result<f64> {
            let at = Instant::now();
            let call = Call {
                input: task.input.clone(),
                ..Call::default()
            };
            guest.call(call).result.map_err(Failure::failed)?;
            Ok(ms(at))
        };
        Ok(Took {
            start,
            open,
            first: call()?,
            second: call()?,
        })
    })?
}

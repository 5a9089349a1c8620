//! `maquette check`: everything about a model that can be found wrong before anybody calls it.

use std::path::{Path, PathBuf};

use maquette_package::check::{self, Severity};
use maquette_package::manifest::Manifest;
use maquette_package::shards;
use maquette_package::source;
use maquette_package::version::MAX_COMPONENT;
use maquette_sandbox::Parts;
use serde_json::{Value, json};

use crate::failure::{Exit, Failure, Result};
use crate::local::{self, Host, Model, Target};
use crate::report::{self, count};
use crate::ui::{Ui, bytes};

const EXAMPLES: &str = "\
Examples:
  maquette check                  the model in this folder
  maquette check component.wasm   a component by itself, whatever it was written in
  maquette check --json

Weights and assets without a sha256 are fetched, and the lines to add are printed.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's folder, or a component's file.
    #[arg(default_value = ".", value_name = "DIR|COMPONENT")]
    target: PathBuf,
}

/// What was looked at, and what was found.
#[derive(Default)]
struct Findings {
    good: Vec<(&'static str, String)>,
    problems: Vec<check::Problem>,
}

/// Checks and prints what was found.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let mut findings = Findings::default();
    let model = match Target::new(&args.target)? {
        Target::Folder(dir) => folder(&dir, &mut findings, ui)?,
        Target::Component(path) => component(&path, &mut findings)?,
    };
    if let Some(model) = &model {
        let description = &model.prepared.description;
        let inputs = description
            .input
            .get("properties")
            .and_then(Value::as_object)
            .map_or(0, serde_json::Map::len);
        findings.good.push((
            "schemas",
            format!("{}, made by {}", count(inputs as u64, "input"), description.sdk),
        ));
        findings.good.push(("load", model.load_note()));
        findings.good.push(("limits", local::limits_line(&model.parts.limits)));
    }
    let errors = findings
        .problems
        .iter()
        .filter(|p| p.severity == Severity::Error)
        .count();
    let document = json!({
        "ok": errors == 0,
        "checked": findings.good.iter().map(|(what, found)| json!({"what": what, "found": found})).collect::<Vec<_>>(),
        "problems": findings.problems,
    });
    ui.result(&document, |ui| {
        let mut out = String::new();
        for (what, found) in &findings.good {
            out.push_str(&format!("{} {what:<10} {found}\n", ui.good("  ok ")));
        }
        for problem in &findings.problems {
            let mark = match problem.severity {
                Severity::Error => ui.bad("  bad"),
                Severity::Warning => ui.strong(" warn"),
            };
            out.push_str(&format!("{mark} {}\n        --> {}\n", problem.what, problem.where_));
            for line in problem.help.lines() {
                out.push_str(&format!("        {line}\n"));
            }
        }
        out.push_str(&match errors {
            0 => format!("\n{}\n", ui.good("this can be published")),
            n => format!(
                "\n{}\n",
                ui.bad(&format!("{} to put right", count(n as u64, "problem")))
            ),
        });
        out
    })?;
    if errors > 0 {
        Err(Failure::told(Exit::Failed))
    } else {
        Ok(())
    }
}

fn folder(dir: &Path, findings: &mut Findings, ui: &mut Ui) -> Result<Option<Model>> {
    let manifest = Manifest::read_unpinned(dir)?;
    let store = local::store()?;
    if manifest
        .entries()
        .any(|(_, _, e)| e.sha256.is_none() && e.source.is_remote())
    {
        let pins = source::pins(dir, &manifest, &store, ui)?;
        for pin in pins {
            findings.problems.push(check::Problem {
                severity: Severity::Error,
                what: format!(
                    "{} has no `sha256`, and `{}` may change",
                    shards::heading(pin.kind, &pin.name),
                    pin.source
                ),
                where_: format!("{}:{}", dir.join(maquette_package::manifest::FILE).display(), pin.line),
                help: format!("this is what it has today; add these lines:\n{pin}"),
            });
        }
        return Ok(None);
    }
    let package = match local::assemble(dir, &store, ui) {
        Ok(package) => package,
        Err(failure) => return problem(failure, findings),
    };
    let version = &package.manifest;
    findings.good.push((
        "manifest",
        format!("{} {}, id {}", version.name, version.version, package.id),
    ));
    findings.good.push((
        "component",
        format!("{} of {}", bytes(version.component.size), bytes(MAX_COMPONENT)),
    ));
    findings.good.push(("imports", imports(&package.report.imports)));
    for (what, blobs) in [("weights", &version.weights), ("assets", &version.assets)] {
        if !blobs.is_empty() {
            let size = blobs.values().map(|b| b.size).sum();
            findings
                .good
                .push((what, format!("{}, {}", count(blobs.len() as u64, "file"), bytes(size))));
        }
    }
    findings.problems.extend(package.report.problems.clone());
    let Some(model) = open(local::parts(version, &store)?, findings)? else {
        return Ok(None);
    };
    let mut fitting = 0_u64;
    for case in &package.cases {
        match model.checked(case.input.clone()) {
            Ok(_) => fitting += 1,
            Err(errors) => findings.problems.push(check::Problem {
                severity: Severity::Error,
                what: errors
                    .iter()
                    .take(5)
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join("; "),
                where_: format!(
                    "{}, `input`",
                    dir.join("cases").join(format!("{}.json", case.name)).display()
                ),
                help: "the input of a case must fit the model's input schema".to_owned(),
            }),
        }
    }
    if package.cases.is_empty() {
        findings.problems.push(check::Problem {
            severity: Severity::Warning,
            what: "the model has no cases".to_owned(),
            where_: dir.join("cases").display().to_string(),
            help: "a case is a test, an example and documentation at once: write cases/first.json".to_owned(),
        });
    } else if fitting > 0 {
        findings.good.push((
            "cases",
            format!("{}; `maquette test` runs them", count(fitting, "case")),
        ));
    }
    Ok(Some(model))
}

fn component(path: &Path, findings: &mut Findings) -> Result<Option<Model>> {
    let wasm = std::fs::read(path).map_err(|e| Failure::file("read the component", path, &e))?;
    let report = check::check(&wasm);
    findings.problems.extend(report.problems.clone());
    if !report.ok() {
        return Ok(None);
    }
    findings.good.push((
        "component",
        format!("{} of {}", bytes(report.size), bytes(MAX_COMPONENT)),
    ));
    findings.good.push(("imports", imports(&report.imports)));
    open(local::bare_parts(path)?, findings)
}

/// Compiles and loads; what the component does wrong is a finding.
fn open(parts: Parts, findings: &mut Findings) -> Result<Option<Model>> {
    match Host::start()?.open(parts) {
        Ok(model) => Ok(Some(model)),
        Err(failure) => problem(failure, findings),
    }
}

/// A failure of the model is a finding; any other ends the check.
fn problem(failure: Failure, findings: &mut Findings) -> Result<Option<Model>> {
    if failure.exit != Exit::Failed {
        return Err(failure);
    }
    let help = [failure.detail.unwrap_or_default(), failure.help].join("\n");
    findings.problems.push(check::Problem {
        severity: Severity::Error,
        what: failure.what,
        where_: if failure.place.is_empty() {
            "the component".to_owned()
        } else {
            failure.place
        },
        help: help.trim().to_owned(),
    });
    Ok(None)
}

/// The contract's interfaces by name, WASI's by number.
fn imports(names: &[String]) -> String {
    let ours: Vec<&str> = names
        .iter()
        .filter_map(|n| n.strip_prefix("maquette:model/"))
        .map(|n| n.split('@').next().unwrap_or(n))
        .collect();
    let rest = names.len() - ours.len();
    let wasi = report::count(rest as u64, "interface");
    match (ours.is_empty(), rest) {
        (true, 0) => "none".to_owned(),
        (true, _) => format!("{wasi} of WASI, which reach nothing"),
        (false, 0) => ours.join(", "),
        (false, _) => format!("{}; {wasi} of WASI, which reach nothing", ours.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imports_are_told_in_the_contracts_words() {
        let names = |n: &[&str]| n.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(imports(&[]), "none");
        assert_eq!(imports(&names(&["maquette:model/tensors@0.1.0"])), "tensors");
        assert_eq!(
            imports(&names(&[
                "maquette:model/tensors@0.1.0",
                "maquette:model/run@0.1.0",
                "wasi:io/streams@0.2.6"
            ])),
            "tensors, run; 1 interface of WASI, which reach nothing"
        );
    }
}

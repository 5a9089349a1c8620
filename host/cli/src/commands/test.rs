//! `maquette test`: a model's cases, run in the sandbox and under the limits that will serve it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use maquette_package::cases::{Case, Difference};
use maquette_sandbox::{LogLevel, Report, files};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure, Result};
use crate::local::{self, Broken, Host, How, Model, On, Target};
use crate::report;
use crate::ui::{Ui, pretty, time};

const EXAMPLES: &str = "\
Examples:
  maquette test                       the model in this folder
  maquette test plugins/minilm        another one
  maquette test --case greeting -v    one case, with its log
  maquette test --json                the report for a program

A case is a file cases/NAME.json: {\"input\": {…}, \"output\": …, \"tolerance\": 1e-5}. Numbers may differ by the tolerance,
relative to the expected number where that is above 1. \"@cat.png\" in it stands for the file cases/cat.png.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's folder.
    #[arg(default_value = ".", value_name = "DIR")]
    dir: PathBuf,
    /// Only the cases whose name contains this text.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Print the log of every case, not of failing ones only.
    #[arg(long, short)]
    verbose: bool,
    #[command(flatten)]
    on: On,
}

/// How one case went.
pub(crate) struct Ran {
    /// Its name.
    pub(crate) name: String,
    /// Why it failed, if it did.
    pub(crate) why: Option<Why>,
    /// What the call used.
    pub(crate) report: Report,
}

/// Why a case failed.
pub(crate) struct Why {
    /// In a line.
    pub(crate) message: String,
    /// Where the output differs, and both values.
    pub(crate) differences: Vec<Difference>,
    /// How many places differ in all.
    pub(crate) total: usize,
    /// The guest's own words and a backtrace.
    pub(crate) detail: Option<String>,
}

impl Why {
    fn new(message: String) -> Self {
        Self {
            message,
            differences: Vec::new(),
            total: 0,
            detail: None,
        }
    }
}

/// Runs the cases and prints the report.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let dir = match Target::new(&args.dir)? {
        Target::Folder(dir) => dir,
        Target::Component(path) => {
            return Err(Failure::usage("a component by itself has no cases")
                .at(path.display())
                .help("name the model's folder; `maquette run COMPONENT -i …` calls a component"));
        }
    };
    let device = args.on.check()?;
    let store = local::store()?;
    let package = local::assemble(&dir, &store, ui)?;
    let host = Host::start_on(device)?;
    let model = host.open(local::parts(&package.manifest, &store)?)?;
    let chosen: Vec<&Case> = package
        .cases
        .iter()
        .filter(|case| args.case.as_ref().is_none_or(|text| case.name.contains(text.as_str())))
        .collect();
    if chosen.is_empty() {
        let failure = Failure::failed(match &args.case {
            Some(text) => format!("no case has `{text}` in its name"),
            None => "the model has no cases".to_owned(),
        });
        return Err(failure.at(dir.join("cases").display()).help(
            "write cases/first.json: {\"input\": {…}, \"output\": …}; `maquette run` prints an output to start from",
        ));
    }
    let started = Instant::now();
    let ran = chosen
        .iter()
        .map(|case| run_case(&model, case))
        .collect::<Result<Vec<_>>>()?;
    let failed = ran.iter().filter(|r| r.why.is_some()).count();
    let id = package.id.to_string();
    let load = &model.prepared;
    let document = json!({
        "model": package.manifest.name,
        "version": package.manifest.version,
        "id": id,
        "passed": ran.len() - failed,
        "failed": failed,
        "load": load.load,
        "load_logs": load.load_logs,
        "limits": model.parts.limits,
        "cases": ran.iter().map(to_json).collect::<Vec<_>>(),
    });
    ui.result(&document, |ui| {
        let title = format!("{} {} ({})", package.manifest.name, package.manifest.version, &id[..12]);
        let mut out = format!("{}\n", ui.strong(&title));
        out.push_str(&ui.faint(&format!("  {}\n", model.load_note())));
        if args.verbose {
            out.push_str(&ui.faint(&format!("  limits: {}\n", local::limits_line(&model.parts.limits))));
            out.push_str(&report::logs(ui, &load.load_logs, 0, "  load: "));
        }
        let width = ran.iter().map(|r| r.name.chars().count()).max().unwrap_or(0);
        for r in &ran {
            out.push_str(&case_text(ui, r, width, args.verbose));
        }
        let passed = report::count((ran.len() - failed) as u64, "case");
        let total = time(started.elapsed());
        out.push_str(&match failed {
            0 => format!("\n{} in {total}\n", ui.good(&format!("{passed} passed"))),
            n => format!("\n{}, {passed} passed in {total}\n", ui.bad(&format!("{n} failed"))),
        });
        out
    })?;
    if failed > 0 {
        Err(Failure::told(Exit::Failed))
    } else {
        Ok(())
    }
}

/// Runs one case.
pub(crate) fn run_case(model: &Model, case: &Case) -> Result<Ran> {
    let (made, report) = model.call(case.input.clone(), How::default())?;
    let listed = |errors: &[maquette_server::schema::FieldError]| {
        errors
            .iter()
            .take(20)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("; ")
    };
    let why = match made {
        Err(Broken::Input(errors)) => Some(Why::new(format!(
            "the case's input does not fit the input schema: {}",
            listed(&errors)
        ))),
        Err(Broken::Model { code, message, detail }) => Some(Why {
            detail,
            ..Why::new(format!("{}: {message}", code.name()))
        }),
        Ok(made) => {
            let mut output = made.output;
            files::embed(&mut output, &made.files);
            match case.check(&output) {
                Err(mismatch) => Some(Why {
                    total: mismatch.total,
                    message: format!(
                        "the output differs in {}",
                        report::count(mismatch.total as u64, "place")
                    ),
                    differences: std::iter::once(Difference {
                        path: mismatch.path,
                        expected: mismatch.expected,
                        actual: mismatch.actual,
                        why: mismatch.why,
                    })
                    .chain(mismatch.more)
                    .collect(),
                    detail: None,
                }),
                Ok(()) if !made.misfits.is_empty() => Some(Why::new(format!(
                    "the output does not fit the output schema: {}",
                    listed(&made.misfits)
                ))),
                Ok(()) => None,
            }
        }
    };
    Ok(Ran {
        name: case.name.clone(),
        why,
        report,
    })
}

fn case_text(ui: &Ui, ran: &Ran, width: usize, verbose: bool) -> String {
    let mark = match ran.why {
        None => ui.good("  ok  "),
        Some(_) => ui.bad("  FAIL"),
    };
    let mut out = format!(
        "{mark} {:<width$}  {}\n",
        ran.name,
        ui.faint(&report::line(&ran.report))
    );
    if let Some(why) = &ran.why {
        out.push_str(&format!("         {}\n", why.message));
        for difference in &why.differences {
            out.push_str(&format!(
                "         at {}: {}\n",
                ui.strong(&difference.path),
                difference.why
            ));
            out.push_str(&format!("           expected  {}\n", short(&difference.expected)));
            out.push_str(&format!("           got       {}\n", short(&difference.actual)));
        }
        if why.total > why.differences.len() && !why.differences.is_empty() {
            out.push_str(&format!("         … {} more\n", why.total - why.differences.len()));
        }
        for line in why.detail.iter().flat_map(|d| d.lines()) {
            out.push_str(&format!("         {} {line}\n", ui.faint("|")));
        }
    }
    if verbose || ran.why.is_some() {
        out.push_str(&report::logs(
            ui,
            &ran.report.logs,
            ran.report.dropped_log_bytes,
            "         ",
        ));
    } else {
        let warnings = ran.report.logs.iter().filter(|l| l.level >= LogLevel::Warn).count() as u64;
        if warnings > 0 {
            out.push_str(&ui.faint(&format!(
                "         {} in the log; -v shows it\n",
                report::count(warnings, "warning")
            )));
        }
    }
    out
}

fn short(value: &Value) -> String {
    let text = pretty(value, true);
    let cut: String = text.chars().take(300).collect();
    if cut.len() < text.len() {
        format!("{cut}…")
    } else {
        cut
    }
}

fn to_json(ran: &Ran) -> Value {
    let mut document = json!({
        "name": ran.name,
        "passed": ran.why.is_none(),
        "report": report::to_json(&ran.report),
    });
    if let Some(why) = &ran.why {
        document["why"] = json!(why.message);
        if !why.differences.is_empty() {
            document["differences_total"] = json!(why.total);
            document["differences"] = why
                .differences
                .iter()
                .map(|d| json!({"path": d.path, "expected": d.expected, "actual": d.actual, "why": d.why}))
                .collect();
        }
        if let Some(detail) = &why.detail {
            document["detail"] = json!(detail);
        }
    }
    document
}

/// Runs every case for another command; `Err` if one fails.
pub(crate) fn all(model: &Model, cases: &[Case], ui: &Ui) -> Result<Duration> {
    let started = Instant::now();
    for case in cases {
        let ran = run_case(model, case)?;
        let Some(why) = ran.why else { continue };
        let mut detail: Vec<String> = why
            .differences
            .iter()
            .map(|d| {
                format!(
                    "at {}: {}\n  expected  {}\n  got       {}",
                    d.path,
                    d.why,
                    short(&d.expected),
                    short(&d.actual)
                )
            })
            .collect();
        detail.extend(why.detail);
        detail.extend(
            ran.report
                .logs
                .iter()
                .map(|l| format!("{}: {}", report::level(l.level), l.message)),
        );
        ui.say("");
        return Err(
            Failure::failed(format!("the case `{}` fails: {}", ran.name, why.message))
                .detail((!detail.is_empty()).then(|| detail.join("\n")))
                .help("`maquette test` runs every case and prints the whole report"),
        );
    }
    Ok(started.elapsed())
}

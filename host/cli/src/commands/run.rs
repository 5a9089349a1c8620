//! `maquette run`: one call of a model, without a server.

use std::hash::{BuildHasher as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use maquette_sandbox::{Code, Event, OutputFile, files};
use serde_json::{Value, json};

use crate::failure::{Exit, Failure, Result};
use crate::inputs;
use crate::local::{self, Broken, Host, How, Made, On, Target};
use crate::report;
use crate::ui::{Ui, bytes, pretty};

const EXAMPLES: &str = "\
Examples:
  maquette run my-model -i text=\"hello\"
  maquette run my-model -i image=@cat.png -i size=512 -o out.png
  maquette run my-model -i texts=one -i texts=two              a list, item by item
  maquette run my-model --input-json @input.json --report
  maquette run component.wasm -i text=hi                       a component by itself

Values take the type that the model's input schema gives them. @FILE is the content of a file (for an input that is a file: the
file itself), @- standard input; write @@ for a text that begins with @.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model's folder, or a component's file.
    #[arg(default_value = ".", value_name = "DIR|COMPONENT")]
    target: PathBuf,
    /// An input. Repeat it for more inputs, or for the items of a list.
    #[arg(short, long = "input", value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// The whole input as a JSON object, @FILE or @-; -i goes over it.
    #[arg(long, value_name = "JSON")]
    input_json: Option<String>,
    /// Where output files go: a file if there is one, else a folder.
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// The seed of the model's randomness; random unless given.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Less time than the model's own limit.
    #[arg(long, value_name = "MS")]
    timeout_ms: Option<u64>,
    /// Print what the call took and used on standard error.
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    on: On,
}

/// Calls the model and prints its output.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    let device = args.on.check()?;
    let store = local::store()?;
    let parts = match Target::new(&args.target)? {
        Target::Folder(dir) => local::parts(&local::assemble(&dir, &store, ui)?.manifest, &store)?,
        Target::Component(path) => local::bare_parts(&path)?,
    };
    let model = Host::start_on(device)?.open(parts)?;
    let input = inputs::read(model.input_schema(), args.input_json.as_deref(), &args.inputs)?;
    let quiet = ui.is_quiet();
    let how = How {
        seed: args.seed.unwrap_or_else(random),
        timeout: args.timeout_ms.map(Duration::from_millis),
        events: (!quiet).then(|| Box::new(|event| tell(&event)) as Box<dyn FnMut(Event) + Send + Sync>),
    };
    let seed = how.seed;
    let (made, card) = model.call(input, how)?;
    if args.report && !ui.is_json() {
        ui.say(report::card(ui, &card).trim_end());
        ui.say(format!("{:>18} {seed}", "seed"));
    }
    let made = made.map_err(failure)?;
    for misfit in &made.misfits {
        ui.warn(format!("the output does not fit the model's output schema: {misfit}"));
    }
    let Made {
        mut output,
        files: made_files,
        ..
    } = made;
    let paths = write_files(&made_files, args.output.as_deref())?;
    name_files(&mut output, &paths);
    for (path, file) in paths.iter().zip(&made_files) {
        ui.step(
            "wrote",
            format!(
                "{} ({}, {})",
                path.display(),
                file.media_type,
                bytes(file.bytes.len() as u64)
            ),
        );
    }
    let document = json!({"output": output, "files": paths, "seed": seed, "report": report::to_json(&card)});
    ui.result(&document, |_| match &output {
        Value::String(text) => text.clone(),
        other => pretty(other, false),
    })
}

fn tell(event: &Event) {
    match event {
        Event::Log(line) => eprintln!("    {:>5} {}", report::level(line.level), line.message),
        Event::Progress { fraction, message } => eprintln!("    {:>4.0}% {message}", fraction * 100.0),
        // They are in the output too, which follows.
        Event::Item(_) | Event::File(_) => {}
    }
}

/// A failed call as a failed command.
pub(crate) fn failure(broken: Broken) -> Failure {
    match broken {
        Broken::Input(errors) => {
            let lines: Vec<String> = errors.iter().take(50).map(ToString::to_string).collect();
            let what = match lines.as_slice() {
                [one] => format!("the input does not fit: {one}"),
                many => format!(
                    "the input does not fit the model's input schema in {} places",
                    many.len()
                ),
            };
            Failure::usage(what)
                .detail((lines.len() > 1).then(|| lines.join("\n")))
                .help("give inputs with -i NAME=VALUE; `maquette inspect` prints what the model's inputs are")
        }
        Broken::Model { code, message, detail } => {
            let exit = if code == Code::InvalidInput {
                Exit::Usage
            } else {
                Exit::Failed
            };
            let help = match code {
                Code::Timeout => "the limit is `timeout_ms` under [limits] in maquette.toml",
                Code::Quota => "the budgets stand under [limits] in maquette.toml",
                _ => "",
            };
            Failure::new(exit, format!("{}: {message}", code.name()))
                .detail(detail)
                .help(help)
        }
    }
}

/// Writes output files and returns where they are.
fn write_files(made: &[OutputFile], target: Option<&Path>) -> Result<Vec<PathBuf>> {
    let write = |path: &Path, file: &OutputFile| {
        std::fs::write(path, &file.bytes).map_err(|e| Failure::file("write the output", path, &e))
    };
    if let ([only], Some(path)) = (made, target)
        && !path.is_dir()
    {
        write(path, only)?;
        return Ok(vec![path.to_owned()]);
    }
    if made.is_empty() {
        return Ok(Vec::new());
    }
    let folder = match target {
        Some(folder) => {
            std::fs::create_dir_all(folder).map_err(|e| Failure::file("make the folder", folder, &e))?;
            folder.to_owned()
        }
        None => tempfile::Builder::new()
            .prefix("maquette-output-")
            .tempdir()
            .map_err(|e| Failure::environment(format!("a folder for the output files cannot be made: {e}")))?
            .keep(),
    };
    let numbered = made.iter().enumerate().map(|(i, file)| {
        let path = folder.join(format!("output-{i}.{}", inputs::extension(&file.media_type)));
        write(&path, file).map(|()| path)
    });
    numbered.collect()
}

/// Puts paths where the output refers to files.
fn name_files(output: &mut Value, paths: &[PathBuf]) {
    match output {
        Value::String(text) => {
            if let Some(path) = files::index(text).and_then(|i| paths.get(i)) {
                *text = path.display().to_string();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| name_files(item, paths)),
        Value::Object(fields) => fields.values_mut().for_each(|value| name_files(value, paths)),
        _ => {}
    }
}

/// A seed that nobody chose. JSON readers keep integers below 2^53 exact, so it stays below.
fn random() -> u64 {
    let state = std::collections::hash_map::RandomState::new();
    state.build_hasher().finish() >> 11
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn made() -> Vec<OutputFile> {
        vec![
            OutputFile {
                media_type: "image/png".into(),
                bytes: b"one"[..].into(),
            },
            OutputFile {
                media_type: "strange/thing".into(),
                bytes: b"two"[..].into(),
            },
        ]
    }

    #[test]
    fn output_files_are_written_and_named_in_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let paths = write_files(&made(), Some(&out)).unwrap();
        assert_eq!(paths, [out.join("output-0.png"), out.join("output-1.bin")]);
        assert_eq!(std::fs::read(&paths[1]).unwrap(), b"two");
        let mut output = json!({"a": "maquette-file:1", "b": ["maquette-file:0", "x", "maquette-file:7"]});
        name_files(&mut output, &paths);
        assert_eq!(output["a"], json!(paths[1].display().to_string()));
        assert_eq!(
            output["b"],
            json!([paths[0].display().to_string(), "x", "maquette-file:7"])
        );
    }

    #[test]
    fn one_file_goes_where_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cat.png");
        assert_eq!(
            write_files(&made()[..1], Some(&path)).unwrap(),
            std::slice::from_ref(&path)
        );
        assert_eq!(std::fs::read(path).unwrap(), b"one");
        assert!(write_files(&[], None).unwrap().is_empty());
    }

    #[test]
    fn a_bad_input_is_the_callers_fault_and_a_trap_the_models() {
        let field = |name: &str| maquette_server::schema::FieldError {
            field: name.into(),
            message: "no".into(),
        };
        let input = failure(Broken::Input(vec![field("a"), field("b")]));
        assert_eq!(
            (input.exit, input.detail.as_deref()),
            (Exit::Usage, Some("a: no\nb: no"))
        );
        let trap = Broken::Model {
            code: Code::Internal,
            message: "it trapped".into(),
            detail: Some("frames".into()),
        };
        assert_eq!(failure(trap).exit, Exit::Failed);
        let refused = Broken::Model {
            code: Code::InvalidInput,
            message: "too long".into(),
            detail: None,
        };
        assert_eq!(failure(refused).exit, Exit::Usage);
    }
}

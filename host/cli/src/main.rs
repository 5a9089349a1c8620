//! The `maquette` binary: reads the command line, runs one command, and turns how it ended into an exit code.

mod client;
mod commands;
mod failure;
mod inputs;
mod local;
mod logs;
mod paths;
mod report;
mod sdk;
mod ui;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::failure::{Failure, Result};
use crate::ui::Ui;

const EXAMPLES: &str = "\
Start here:
  maquette new my-model && cd my-model && maquette test    a first model, built and tested
  maquette up my-model                                     the same model behind an HTTP endpoint

Exit codes:
  0  it worked
  1  a check, a case or a call failed: the model has to change
  2  the command line or the input is wrong
  3  this machine lacks something: a tool, room, a free port, a permission, the network (`maquette doctor` finds out)
  4  the server cannot be reached or refused

Results go to standard output, narration and progress to standard error. With --json every command prints one JSON document;
a failure prints {\"error\": {\"kind\", \"message\", \"where\", \"help\", \"detail\"}}.

Environment:
  MAQUETTE_DATA     the server's data folder          MAQUETTE_SERVER   the server's address
  MAQUETTE_CACHE    downloads and compiled models     MAQUETTE_TOKEN    the token to call it with
  MAQUETTE_LOG      what is logged, such as debug     NO_COLOR          no colours";

/// Build, test and serve machine-learning models as sandboxed WebAssembly components.
#[derive(Parser)]
#[command(name = "maquette", version, after_help = EXAMPLES, propagate_version = true, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Print the result as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// Print no narration and no progress.
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a new model from a template.
    New(commands::new::Args),
    /// Build a model's component.
    Build(commands::build::Args),
    /// Check a model: manifest, world, imports, limits, schemas, sizes, cases.
    Check(commands::check::Args),
    /// Run a model's cases in the sandbox that will serve it.
    Test(commands::test::Args),
    /// Call a model once, without a server.
    Run(commands::run::Args),
    /// Do everything: build, fetch, check, test, serve and publish a model.
    Up(commands::up::Args),
    /// Serve the models of a data folder over HTTP.
    Serve(commands::serve::Args),
    /// Publish a model to a server.
    Publish(commands::publish::Args),
    /// Let a quarantined version on a server be called again.
    Release(commands::release::Args),
    /// Make, list and revoke the tokens of a server.
    Token(commands::token::Args),
    /// Show what a model or a component is.
    Inspect(commands::inspect::Args),
    /// Measure this machine's figures, each as a ratio in one run.
    Bench(commands::bench::Args),
    /// Check this machine's set-up, and put it right with --fix.
    Doctor(commands::doctor::Args),
    /// List the tensor ops that models can use.
    Ops(commands::ops::Args),
    /// Print a completion script for a shell.
    Completions(commands::completions::Args),
    /// Compile one component for a server, apart from its process.
    #[command(hide = true)]
    Prepare(commands::prepare::Args),
}

/// Not the system's: glibc's maps and unmaps tens of megabytes, tensors, under a lock that every new sandbox needs, and each of its arenas
/// keeps what was freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The variable by which candle and rayon are told how many threads to use.
const THREADS: &str = "RAYON_NUM_THREADS";

fn main() -> ExitCode {
    if std::env::var_os(THREADS).is_none()
        && let Ok(threads) = std::thread::available_parallelism()
    {
        // candle counts the processors anew for each matrix product if nobody tells it, which takes 50 us.
        // SAFETY: there is no other thread yet that could read the environment.
        unsafe { std::env::set_var(THREADS, threads.to_string()) };
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // `--help` and `--version` arrive here too, and go to standard output with code 0.
            let _ = e.print();
            if e.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
                let failure = Failure::usage(e.kind()).help("`maquette --help` explains the command line");
                let _ = ui::print(&format!("{:#}\n", failure.json()));
            }
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    // Its standard output is a protocol, so nothing else of this program may touch it.
    if let Command::Prepare(args) = &cli.command {
        return commands::prepare::run(args);
    }
    let mut ui = Ui::new(cli.json, cli.quiet);
    match run(cli.command, &mut ui) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            maquette_package::Progress::end(&mut ui);
            if !failure.told {
                if ui.is_json() {
                    let _ = ui::print(&format!("{:#}\n", failure.json()));
                }
                ui.error(&failure);
            }
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn run(command: Command, ui: &mut Ui) -> Result<()> {
    if !matches!(command, Command::Serve(_)) {
        logs::start("warn", logs::Format::Text);
    }
    match command {
        Command::New(args) => commands::new::run(&args, ui),
        Command::Build(args) => commands::build::run(&args, ui),
        Command::Check(args) => commands::check::run(&args, ui),
        Command::Test(args) => commands::test::run(&args, ui),
        Command::Run(args) => commands::run::run(&args, ui),
        Command::Up(args) => commands::up::run(&args, ui),
        Command::Serve(args) => commands::serve::run(&args, ui),
        Command::Publish(args) => commands::publish::run(&args, ui),
        Command::Release(args) => commands::release::run(&args, ui),
        Command::Token(args) => commands::token::run(&args, ui),
        Command::Inspect(args) => commands::inspect::run(&args, ui),
        Command::Bench(args) => commands::bench::run(&args, ui),
        Command::Doctor(args) => commands::doctor::run(&args, ui),
        Command::Ops(args) => commands::ops::run(&args, ui),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Prepare(args) => {
            let _ = commands::prepare::run(&args);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_takes_json_and_quiet_before_and_after() {
        for args in [
            ["maquette", "--json", "ops"],
            ["maquette", "ops", "--json"],
            ["maquette", "ops", "-q"],
        ] {
            let cli = Cli::try_parse_from(args).unwrap();
            assert!(cli.json || cli.quiet, "{args:?}");
        }
    }

    #[test]
    fn a_wrong_command_line_ends_with_2_and_help_with_0() {
        let code = |args: &[&str]| Cli::try_parse_from(args).map(|_| 0).unwrap_or_else(|e| e.exit_code());
        assert_eq!(code(&["maquette", "tset"]), 2);
        assert_eq!(code(&["maquette"]), 2);
        assert_eq!(code(&["maquette", "test", "--nope"]), 2);
        assert_eq!(code(&["maquette", "test", "--help"]), 0);
        assert_eq!(code(&["maquette", "--version"]), 0);
    }

    #[test]
    fn every_command_that_runs_models_takes_a_device_and_refuses_what_is_none() {
        for command in ["serve", "up", "run", "test", "bench"] {
            for (device, fine) in [
                ("cpu", true),
                ("cuda:0", true),
                ("cuda:7", true),
                ("gpu", false),
                ("cuda", false),
            ] {
                let parsed = Cli::try_parse_from(["maquette", command, "--device", device]);
                assert_eq!(parsed.is_ok(), fine, "{command} --device {device}");
            }
            let refused = Cli::try_parse_from(["maquette", command, "--device", "gpu"])
                .err()
                .unwrap();
            assert!(refused.to_string().contains("`cuda:0`"), "{refused}");
        }
    }

    #[test]
    fn every_command_is_explained_and_every_option_too() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }
}

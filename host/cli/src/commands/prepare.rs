//! `maquette prepare`: the child process in which a server compiles a component that it does not trust.

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, setrlimit};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder for compiled components.
    #[arg(long, value_name = "DIR")]
    cache: PathBuf,
    /// Processor time after which this process is ended. A server sets this from outside.
    #[arg(long, value_name = "SECONDS")]
    cpu_seconds: Option<u64>,
    /// Private memory that this process may have. A server sets this from outside.
    #[arg(long, value_name = "BYTES")]
    memory_bytes: Option<u64>,
}

/// Reads a version's parts from standard input and answers on standard output, after binding itself to its limits.
pub(crate) fn run(args: &Args) -> ExitCode {
    // Not RLIMIT_AS: the engine reserves far more address space than it ever uses.
    for (resource, limit) in [(Resource::Cpu, args.cpu_seconds), (Resource::Data, args.memory_bytes)] {
        let Some(limit) = limit else { continue };
        let limit = Rlimit {
            current: Some(limit),
            maximum: Some(limit),
        };
        if let Err(e) = setrlimit(resource, limit) {
            eprintln!("limiting this process: {e}");
            return ExitCode::from(3);
        }
    }
    maquette_server::prepare_main(&args.cache)
}

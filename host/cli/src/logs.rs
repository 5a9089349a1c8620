//! Logs go to standard error; `MAQUETTE_LOG` says what is logged.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging at `level` unless `MAQUETTE_LOG` says otherwise. The first call decides.
pub(crate) fn start(level: &str, format: Format) {
    let mut filter = EnvFilter::try_from_env("MAQUETTE_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // These write URLs and heads of requests, in which there may be secrets: not because everything is to be logged.
    for library in ["ureq", "ureq_proto", "rustls", "hyper", "hyper_util"] {
        if let Ok(quiet) = format!("{library}=warn").parse() {
            filter = filter.add_directive(quiet);
        }
    }
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr())
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colour)
        .with_timer(SystemTime)
        .with_target(false);
    // An error means that logging has started already.
    let _ = match format {
        Format::Text => log.try_init(),
        Format::Json => log.json().flatten_event(true).with_target(true).try_init(),
    };
}

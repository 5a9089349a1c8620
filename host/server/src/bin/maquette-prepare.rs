//! Compiles one component for a server, as `maquette prepare` does. Takes `--cache FOLDER`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip_while(|arg| arg != "--cache").skip(1);
    let Some(cache) = args.next() else {
        eprintln!("usage: maquette-prepare --cache FOLDER");
        return ExitCode::from(64);
    };
    maquette_server::prepare_main(Path::new(&cache))
}

//! The other side: the whole of the program that a server runs to compile a component.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use super::Answer;
use crate::engine::{Parts, compiler, prepare};
use crate::scheduling;

/// The most that a server sends: paths and digests.
const MAX_INPUT: u64 = 4 << 20;

/// By how much a compiler stands back behind whoever serves, as `nice` counts: a third of the weight.
const STANDS_BACK: i32 = 5;

/// Reads a version's parts as JSON from standard input, compiles and loads the component into `cache`, and writes the result as
/// JSON to standard output. `maquette prepare --cache FOLDER` does nothing else.
pub fn prepare_main(cache: &Path) -> ExitCode {
    // Calls are served beside it.
    scheduling::works(STANDS_BACK);
    let answer = match run(cache) {
        Ok(prepared) => Answer::Prepared(Box::new(prepared)),
        Err(error) => Answer::Error(error),
    };
    let code = if matches!(answer, Answer::Prepared(_)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    };
    let mut stdout = std::io::stdout().lock();
    match serde_json::to_writer(&mut stdout, &answer)
        .map_err(std::io::Error::from)
        .and_then(|()| stdout.flush())
    {
        Ok(()) => code,
        Err(e) => {
            eprintln!("the answer could not be written: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(cache: &Path) -> Result<maquette_sandbox::Prepared, maquette_sandbox::Error> {
    let host = |what: &str, e: String| maquette_sandbox::Error::host(format!("{what}: {e}"));
    let mut input = Vec::new();
    std::io::stdin()
        .lock()
        .take(MAX_INPUT)
        .read_to_end(&mut input)
        .map_err(|e| host("reading the parts", e.to_string()))?;
    let parts: Parts = serde_json::from_slice(&input).map_err(|e| host("the parts do not read", e.to_string()))?;
    // The threads that compile need the stack of guests too: `load` runs here.
    let engine = compiler(cache)?;
    let thread = std::thread::Builder::new()
        .name("prepare".to_owned())
        .stack_size(crate::engine::STACK_BYTES)
        .spawn(move || prepare(&engine, &parts))
        .map_err(|e| host("starting a thread", e.to_string()))?;
    thread.join().unwrap_or_else(|_| {
        Err(maquette_sandbox::Error::component(
            "the compiler panicked over this component",
        ))
    })
}

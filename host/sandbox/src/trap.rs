//! What the end of a guest means, for the caller in a sentence and for the contributor in full.

use std::fmt::Write as _;

use maquette_tensor::Full;
use maquette_tensor::ops::Code;
use wasmtime::{Trap, WasmBacktrace};

use crate::bindings::maquette::model::types;
use crate::call::{Failure, LogLevel, LogLine};
use crate::log::clean;
use crate::state::{State, Stop};

/// How many of the guest's last words on standard error go into the detail.
const LAST_LINES: usize = 20;

/// How much of a guest's error message reaches the caller.
const MAX_MESSAGE_BYTES: usize = 4096;

/// How much of a function's or a file's name stands in a backtrace.
const MAX_NAME_BYTES: usize = 512;

/// Explains a trap. `export` is what the guest ran (`predict`, `load`), `logs` what it said.
pub(crate) fn explain(error: &wasmtime::Error, export: &str, state: &State, logs: &[LogLine]) -> Failure {
    let stop = state.told_to_stop().or_else(|| error.downcast_ref::<Stop>().cloned());
    // Sandboxes that there is no room for are the host's matter.
    let broke =
        !error.is::<wasmtime::PoolConcurrencyLimitError>() && !matches!(stop, Some(Stop::Timeout | Stop::Cancelled));
    let (code, message) = if let Some(stop) = stop {
        stopped(&stop, export, state)
    } else if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        (
            Code::Internal,
            format!("the model called exit({}) instead of returning", exit.0),
        )
    } else if let Some(wanted) = state.limiter.refused {
        let limit = state.package.limits.memory_bytes;
        (
            Code::Quota,
            format!("the model ran out of memory: it wanted {wanted} bytes, its limit is {limit}"),
        )
    } else if let Some(trap) = error.downcast_ref::<Trap>() {
        match trap {
            Trap::StackOverflow => (
                Code::Quota,
                "the model recursed too deeply: its stack is 1 MiB".to_owned(),
            ),
            Trap::UnreachableCodeReached => (Code::Internal, "the model panicked".to_owned()),
            trap => (Code::Internal, format!("the model stopped: {trap}")),
        }
    } else {
        (
            Code::Internal,
            "the model stopped: it broke a rule of the host".to_owned(),
        )
    };
    Failure {
        code,
        message,
        detail: Some(detail(error, logs)),
        broke,
        crowded: false,
    }
}

/// The failure of a call that was refused memory because the machine has no room: that is why, whatever the guest made of it. Its own
/// words go into the detail.
pub(crate) fn crowded(failure: Failure, full: Full) -> Failure {
    if matches!(failure.code, Code::InvalidInput | Code::Timeout | Code::Cancelled) {
        return failure;
    }
    Failure {
        code: Code::Quota,
        message: full.to_string(),
        detail: failure.detail.or(Some(failure.message)),
        broke: false,
        crowded: full.by_others(),
    }
}

/// What the caller is told of a guest that the host stopped.
fn stopped(stop: &Stop, export: &str, state: &State) -> (Code, String) {
    match stop {
        Stop::Timeout => (
            Code::Timeout,
            format!("`{export}` did not end within {} ms", state.allowed.as_millis()),
        ),
        Stop::Cancelled => (Code::Cancelled, "the call was cancelled".to_owned()),
        Stop::Impure(_) => (Code::Internal, stop.to_string()),
    }
}

/// A guest's own error. After it was told to stop, that is why it failed, and what it says of it is for the contributor.
pub(crate) fn said(error: types::Error, export: &str, state: &State) -> Failure {
    let message = message(&error.message);
    let Some(stop) = state.told_to_stop() else {
        return Failure::new(error.code.into(), message);
    };
    let (code, told) = stopped(&stop, export, state);
    Failure {
        detail: Some(message),
        ..Failure::new(code, told)
    }
}

/// A guest's own error message: cut, and free of control characters.
pub(crate) fn message(text: &str) -> String {
    clean(&text[..text.floor_char_boundary(MAX_MESSAGE_BYTES)])
}

/// A name from the component's name or debug sections: anything at all, of any length.
fn tame(text: &str) -> String {
    clean(&text[..text.floor_char_boundary(MAX_NAME_BYTES)])
}

/// The guest's last words and where it was.
fn detail(error: &wasmtime::Error, logs: &[LogLine]) -> String {
    let mut text = String::new();
    let words: Vec<_> = logs.iter().filter(|line| line.level >= LogLevel::Warn).collect();
    for line in &words[words.len().saturating_sub(LAST_LINES)..] {
        let _ = writeln!(text, "{}", line.message);
    }
    let mut causes = error.chain().map(ToString::to_string).collect::<Vec<_>>();
    // The backtrace is a context of the error's chain; it is printed below, once, in a shorter form.
    causes.retain(|cause| !cause.starts_with("error while executing at wasm backtrace"));
    let _ = writeln!(text, "cause: {}", causes.join(": "));
    if let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() {
        for (i, frame) in backtrace.frames().iter().enumerate() {
            let name = frame.func_name().map_or_else(
                || format!("function {}", frame.func_index()),
                |func| demangled(&tame(func)),
            );
            let _ = write!(text, "  {i}: {name}");
            for symbol in frame.symbols() {
                if let (Some(file), Some(line)) = (symbol.file(), symbol.line()) {
                    let _ = write!(text, " at {}:{line}", tame(file));
                }
            }
            text.push('\n');
        }
    }
    text
}

/// Rust's mangled names as their authors wrote them.
fn demangled(name: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(name))
}

//! What a model can say and ask about the call that it serves.

use crate::bindings::maquette::model::run as host;
use crate::error::from_host;
use crate::{Output, Result};

/// Logs a line for the contributor.
pub fn debug(message: impl AsRef<str>) {
    host::log(host::Level::Debug, message.as_ref());
}

/// Logs a line.
pub fn info(message: impl AsRef<str>) {
    host::log(host::Level::Info, message.as_ref());
}

/// Logs a warning.
pub fn warn(message: impl AsRef<str>) {
    host::log(host::Level::Warn, message.as_ref());
}

/// Tells the caller how far the call has come, from 0 to 1.
pub fn progress(fraction: f64, message: impl AsRef<str>) {
    host::progress(fraction, message.as_ref());
}

/// Sends an item of a streamed output before `predict` returns.
///
/// # Errors
/// If the output exceeds its limit, or the caller has left.
pub fn emit(item: &impl Output) -> Result<()> {
    let mut json = String::new();
    item.write_json(&mut json);
    host::emit(&json).map_err(from_host)
}

/// Whether the caller has cancelled or left.
pub fn cancelled() -> bool {
    host::cancelled()
}

/// Milliseconds left until the call is stopped.
pub fn remaining_ms() -> u64 {
    host::remaining_ms()
}

/// The seed of this call: take all randomness from it.
pub fn seed() -> u64 {
    host::seed()
}

/// Adds a figure to the call's record, such as `input_tokens`.
pub fn metric(name: &str, value: f64) {
    host::metric(name, value);
}

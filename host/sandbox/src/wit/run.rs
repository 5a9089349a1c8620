//! `run`: what a guest says and asks about its call.

use std::time::Instant;

use maquette_tensor::ops::Error;

use crate::bindings::maquette::model::run;
use crate::call::{Event, LogLevel};
use crate::json;
use crate::log::clean;
use crate::state::{HostError, State};

const MAX_METRICS: usize = 32;
const MAX_METRIC_NAME: usize = 64;
const MAX_PROGRESS_MESSAGE: usize = 512;

/// Items of a streamed output: each is kept and sent on its own, so that the shortest are not free.
const MAX_ITEMS: usize = 65_536;

impl run::Host for State {
    fn log(&mut self, level: run::Level, message: String) -> wasmtime::Result<()> {
        self.crossings += 1;
        let level = match level {
            run::Level::Debug => LogLevel::Debug,
            run::Level::Info => LogLevel::Info,
            run::Level::Warn => LogLevel::Warn,
            run::Level::Error => LogLevel::Error,
        };
        self.log_line(level, &message);
        Ok(())
    }

    fn progress(&mut self, fraction: f64, message: String) -> wasmtime::Result<()> {
        self.enter("run.progress")?;
        if let Some(events) = &mut self.events {
            let fraction = if fraction.is_nan() {
                0.0
            } else {
                fraction.clamp(0.0, 1.0)
            };
            let message = clean(&message[..message.floor_char_boundary(MAX_PROGRESS_MESSAGE)]);
            events(Event::Progress { fraction, message });
        }
        Ok(())
    }

    fn emit(&mut self, item: String) -> Result<(), HostError> {
        self.enter("run.emit")?;
        if self.cancel.is_cancelled() {
            return Err(Error::cancelled("the caller left").into());
        }
        let limit = self.package.limits.output_bytes;
        let wanted = self.output_bytes.saturating_add(item.len() as u64);
        if wanted > limit {
            return Err(Error::quota(format!("the output would take {wanted} bytes; the limit is {limit}")).into());
        }
        if self.items == MAX_ITEMS {
            return Err(Error::quota(format!("an output may have at most {MAX_ITEMS} streamed items")).into());
        }
        if let Err(e) = json::check(&item) {
            return Err(Error::internal(format!("an emitted item is not JSON: {e}")).into());
        }
        self.keep(wanted.saturating_add(self.file_bytes))?;
        self.output_bytes = wanted;
        self.items += 1;
        if let Some(events) = &mut self.events {
            events(Event::Item(item));
        }
        Ok(())
    }

    fn cancelled(&mut self) -> wasmtime::Result<bool> {
        self.enter("run.cancelled")?;
        Ok(self.cancel.is_cancelled())
    }

    fn remaining_ms(&mut self) -> wasmtime::Result<u64> {
        self.enter("run.remaining-ms")?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        Ok(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }

    fn seed(&mut self) -> wasmtime::Result<u64> {
        self.enter("run.seed")?;
        Ok(self.seed)
    }

    fn metric(&mut self, name: String, value: f64) -> wasmtime::Result<()> {
        self.enter("run.metric")?;
        let well_formed = !name.is_empty()
            && name.len() <= MAX_METRIC_NAME
            && name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        let room = self.metrics.len() < MAX_METRICS || self.metrics.contains_key(&name);
        if well_formed && room && value.is_finite() {
            self.metrics.insert(name, value);
        } else {
            let name = &name[..name.floor_char_boundary(MAX_METRIC_NAME)];
            let note = format!(
                "metric `{name}` ignored: names are 1 to {MAX_METRIC_NAME} of a-z, 0-9 and _, values finite, at most {MAX_METRICS} names a call"
            );
            self.log_line(LogLevel::Warn, &note);
        }
        Ok(())
    }
}

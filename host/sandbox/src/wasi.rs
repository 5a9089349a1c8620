//! The part of WASI 0.2 that languages' start-up code needs, linked so that it reaches nothing: no argument, variable,
//! directory or socket; clocks are coarse; a sleep ends with the call; standard output and error go to the call's log.

use std::time::{Duration, Instant, SystemTime};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream, WasiCli, WasiCliView as _};
use wasmtime_wasi::clocks::{HostWallClock, WasiClocks, WasiClocksView as _};
use wasmtime_wasi::filesystem::{WasiFilesystem, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::bindings::{self, cli, clocks, filesystem, random, sync};
use wasmtime_wasi::p2::{DynPollable, OutputStream, Pollable, StreamError, StreamResult, subscribe};
use wasmtime_wasi::random::WasiRandom;
use wasmtime_wasi::{WasiCtx, WasiView as _};

use crate::call::Cancel;
use crate::log::{Log, Stream};
use crate::state::State;

/// How finely a guest can tell time. Coarse, so that a guest cannot time what other sandboxes do.
const CLOCK_RESOLUTION: Duration = Duration::from_millis(1);

/// The most random bytes that one call may ask for.
const MAX_RANDOM_BYTES: u64 = 64 << 10;

/// How often a sleeping guest looks whether it was cancelled.
const SLEEP_SLICE: Duration = Duration::from_millis(10);

/// The WASI interfaces that a component may import, as `namespace:package/interface` without a version.
pub(crate) const ALLOWED: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
];

struct Io;

impl HasData for Io {
    type Data<'a> = &'a mut ResourceTable;
}

struct Monotonic;

impl HasData for Monotonic {
    type Data<'a> = &'a mut State;
}

/// Links exactly [`ALLOWED`].
pub(crate) fn add_to_linker(l: &mut Linker<State>) -> wasmtime::Result<()> {
    cli::environment::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::exit::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_input::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_output::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdin::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stdout::add_to_linker::<State, WasiCli>(l, State::cli)?;
    cli::terminal_stderr::add_to_linker::<State, WasiCli>(l, State::cli)?;
    clocks::wall_clock::add_to_linker::<State, WasiClocks>(l, State::clocks)?;
    clocks::monotonic_clock::add_to_linker::<State, Monotonic>(l, |state| state)?;
    filesystem::preopens::add_to_linker::<State, WasiFilesystem>(l, State::filesystem)?;
    sync::filesystem::types::add_to_linker::<State, WasiFilesystem>(l, State::filesystem)?;
    random::random::add_to_linker::<State, WasiRandom>(l, |state| state.ctx().ctx.random())?;
    random::insecure::add_to_linker::<State, WasiRandom>(l, |state| state.ctx().ctx.random())?;
    random::insecure_seed::add_to_linker::<State, WasiRandom>(l, |state| state.ctx().ctx.random())?;
    bindings::io::error::add_to_linker::<State, Io>(l, |state| &mut state.table)?;
    sync::io::poll::add_to_linker::<State, Io>(l, |state| &mut state.table)?;
    sync::io::streams::add_to_linker::<State, Io>(l, |state| &mut state.table)?;
    Ok(())
}

/// A WASI context that holds nothing but a way into the log.
pub(crate) fn context(log: &Log) -> WasiCtx {
    WasiCtx::builder()
        .allow_tcp(false)
        .allow_udp(false)
        .allow_ip_name_lookup(false)
        .max_random_size(MAX_RANDOM_BYTES)
        .wall_clock(CoarseWallClock)
        .stdout(LogStream {
            log: log.clone(),
            stream: Stream::Stdout,
        })
        .stderr(LogStream {
            log: log.clone(),
            stream: Stream::Stderr,
        })
        .build()
}

struct CoarseWallClock;

impl HostWallClock for CoarseWallClock {
    fn resolution(&self) -> Duration {
        CLOCK_RESOLUTION
    }

    fn now(&self) -> Duration {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        Duration::from_millis(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Monotonic time starts at zero with the process and ends, for a sleeper, with its call.
impl monotonic_clock::Host for State {
    fn now(&mut self) -> wasmtime::Result<u64> {
        Ok(since_start())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        Ok(CLOCK_RESOLUTION.as_nanos() as u64)
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_duration(when.saturating_sub(since_start()))
    }

    fn subscribe_duration(&mut self, nanoseconds: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let until = Instant::now().checked_add(Duration::from_nanos(nanoseconds));
        let until = until.map_or(self.deadline, |until| until.min(self.deadline));
        let sleep = self.table.push(Sleep {
            until,
            cancel: self.cancel.clone(),
        })?;
        subscribe(&mut self.table, sleep)
    }
}

fn since_start() -> u64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed().as_millis() as u64 * 1_000_000
}

/// A sleep that ends at its time, at the call's deadline, or soon after the call was cancelled: the epoch clock cannot
/// interrupt a guest that waits inside the host, so the wait itself has to end.
struct Sleep {
    until: Instant,
    cancel: Cancel,
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sleep {
    async fn ready(&mut self) {
        // Yielding once keeps a guest that polls in a loop from starving the timer.
        tokio::task::yield_now().await;
        while !self.cancel.is_cancelled() {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(SLEEP_SLICE)).await;
        }
    }
}

/// Standard output or standard error, which is the call's log: it takes everything at once and keeps what the budget allows.
#[derive(Clone)]
struct LogStream {
    log: Log,
    stream: Stream,
}

impl IsTerminal for LogStream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for LogStream {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl OutputStream for LogStream {
    fn write(&mut self, bytes: bytes::Bytes) -> StreamResult<()> {
        self.log.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> Result<usize, StreamError> {
        Ok(64 << 10)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for LogStream {
    async fn ready(&mut self) {}
}

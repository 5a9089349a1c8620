//! What goes into one call of a guest and what comes out of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use maquette_tensor::ops::Code;
use serde::{Deserialize, Serialize};

/// A file that the caller sends beside the JSON input; the input refers to it (see [`crate::files`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// As the caller declared it.
    pub media_type: String,
    /// The file itself.
    pub bytes: Arc<[u8]>,
}

/// A file that the guest made; the output refers to it (see [`crate::files`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputFile {
    /// As the guest declared it, reduced to printable ASCII.
    pub media_type: String,
    /// The file itself.
    pub bytes: Arc<[u8]>,
}

/// One call of [`crate::Guest::call`].
#[derive(Default)]
pub struct Call {
    /// Whose call it is: owners share the machine's memory fairly.
    pub owner: Arc<str>,
    /// A JSON object, valid under the model's input schema, defaults filled in.
    pub input: String,
    /// The files that the input refers to.
    pub files: Vec<InputFile>,
    /// What `run.seed` returns.
    pub seed: u64,
    /// Less time than the version's limit, if the caller has a deadline of its own.
    pub timeout: Option<Duration>,
    /// Cancels the call from another thread.
    pub cancel: Cancel,
    /// Is told of logs, progress, files and streamed items as they come, on the thread of the call.
    pub events: Option<Box<dyn FnMut(Event) + Send + Sync>>,
}

/// A flag shared between a call and whoever may cancel it.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the call to stop. A guest that computes is stopped at the next tick of the epoch clock, a program at its next node.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether both are of the same call.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

/// How much a log line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For the contributor only.
    Debug,
    /// What the guest says, its standard output included.
    Info,
    /// What the guest warns of, its standard error included.
    Warn,
    /// What went wrong.
    Error,
}

/// A line of a call's log, free of control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// How much it matters.
    pub level: LogLevel,
    /// At most 4 KiB of text.
    pub message: String,
}

/// What a call tells while it runs.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A line was logged.
    Log(LogLine),
    /// The guest has come this far.
    Progress {
        /// From 0 to 1.
        fraction: f64,
        /// In the guest's words.
        message: String,
    },
    /// A file was finished. Its place in the order in which they come is the index by which items and output refer to it.
    File(OutputFile),
    /// An item of a streamed output, as JSON text. The files that it refers to have come before.
    Item(String),
}

/// What a call returned when all went well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// JSON text under the model's output schema.
    pub json: String,
    /// How many items were streamed before it.
    pub items: usize,
    /// The files that the output refers to.
    pub files: Vec<OutputFile>,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct Failure {
    /// The kind of failure; decides the HTTP status.
    pub code: Code,
    /// For the caller: short, and nothing of the guest's inner life in it.
    pub message: String,
    /// For the contributor: the guest's own words and a symbolised backtrace.
    pub detail: Option<String>,
    /// Whether the guest broke: a trap, an exit, a broken rule of the contract, or the end of its memory or stack. Its own errors, its
    /// deadline, a cancel, what the host refuses of its output and memory that the machine has no room for are not that.
    pub broke: bool,
    /// Whether it had to fail because other calls hold the memory that it needed: the same call may succeed later.
    pub crowded: bool,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            detail: None,
            broke: false,
            crowded: false,
        }
    }
}

/// What a call used, whether it succeeded or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Wall time of the whole call, in microseconds.
    pub total_us: u64,
    /// Wall time to create the sandbox, in microseconds.
    pub instantiate_us: u64,
    /// CPU time of the call's own thread, in microseconds; threads that a tensor op borrows are not in it.
    pub cpu_us: u64,
    /// Wall time inside tensor ops and programs, in microseconds, without what the call has waited there for others that go before it:
    /// what is billed as device time.
    pub compute_us: u64,
    /// Wall time spent loading and packing weights and compiling programs, in microseconds; it is not in `compute_us`. The first call
    /// after a start pays it, or the first after weights had to leave.
    #[serde(default)]
    pub load_us: u64,
    /// The most bytes of linear memory and tables the guest held at once.
    pub guest_memory_bytes: u64,
    /// The most bytes of tensors and temporaries alive at once, weights not counted.
    pub tensor_bytes: u64,
    /// Tensor ops run, those inside programs included.
    pub ops: u64,
    /// Programs run.
    pub program_runs: u64,
    /// Calls from the guest into the host, WASI not counted.
    pub crossings: u64,
    /// Bytes of JSON returned and streamed.
    pub output_bytes: u64,
    /// The call's log.
    pub logs: Vec<LogLine>,
    /// Bytes of log that exceeded the budget and were dropped.
    pub dropped_log_bytes: u64,
    /// The figures that the guest set with `run.metric`.
    pub metrics: BTreeMap<String, f64>,
}

/// The end of a call.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What it returned, or why not.
    pub result: Result<Output, Failure>,
    /// What it used.
    pub report: Report,
}

//! What a server is started with. Everything has a default that suits one machine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use maquette_tensor::Device;

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Config {
    /// The one folder in which everything is kept: catalog, blobs, compiled components, admin token.
    pub data: PathBuf,
    /// Where to listen. Loopback unless told otherwise; port 0 picks a free one.
    pub bind: SocketAddr,
    /// Where clients reach the server, such as `https://models.example.org`, if not where it listens: absolute URLs in replies
    /// begin with it.
    pub public_url: Option<String>,
    /// Whether `X-Forwarded-Proto` and `X-Forwarded-Host` are believed: only behind a proxy that sets them itself.
    pub trust_forwarded: bool,
    /// Whether requests need a token. Without, everybody who reaches the address is an admin.
    pub auth: bool,
    /// Whether `/metrics` answers without a token.
    pub open_metrics: bool,
    /// The largest JSON body, in bytes.
    pub max_body_bytes: u64,
    /// The largest blob, in bytes.
    pub max_blob_bytes: u64,
    /// Memory that request bodies being read and parsed may take together, in bytes; past it the server answers 503.
    pub body_memory_bytes: u64,
    /// How long a client may take to send a request's head, and to send a body (a blob: between two pieces of it).
    pub read_timeout: Duration,
    /// How slowly a large body may come and a large reply be read, in bytes a second, beyond the first while of twice the time above.
    pub slowest: u64,
    /// Connections at once. When there are more, those that have sent no request for longest are closed; the others wait.
    pub connections: usize,
    /// Streams of predictions and runs, and downloads of files, that may be open at once for each owner. All owners' together take three
    /// quarters of the connections at most.
    pub streams_per_owner: usize,
    /// Calls that run at once, each on a thread of its own; 0 stands for the number of processors.
    pub lanes: usize,
    /// How far lanes stand back behind the threads that answer requests, as `nice` counts: 0 to 19.
    pub lane_nice: i32,
    /// Where tensors and weights live, and ops run.
    pub device: Device,
    /// Threads that tensor ops share, whatever the number of lanes; 0 stands for the number of processors. They belong to the
    /// process: the first server started in it decides.
    pub tensor_threads: usize,
    /// What `GET /v1/hardware` shows: a short name and one for people.
    pub hardware: Vec<(String, String)>,
    /// What a millisecond of device time costs, in billionths of the currency's unit; 0 bills nothing.
    pub price_per_ms: u64,
    /// How long inputs, outputs and logs of predictions are kept after their end.
    pub keep_data: Duration,
    /// How long the rows of predictions are kept; what was used is kept for good.
    pub keep_predictions: Duration,
    /// Memory for outputs of deterministic versions, in bytes, and how long each is kept.
    pub cache_bytes: u64,
    /// See `cache_bytes`.
    pub cache_time: Duration,
    /// Calls that may wait.
    pub queue_limit: usize,
    /// The longest predicted wait of a call that is let in.
    pub queue_wait: Duration,
    /// Memory that waiting calls' inputs may take together, in bytes.
    pub queue_bytes: u64,
    /// Versions kept open at once; the least recently called are closed first.
    pub open_versions: usize,
    /// How long a version stays open that nobody calls.
    pub idle: Duration,
    /// What all calls together may hold of the machine's memory, in bytes: linear memories, tensors, files and output. 0 stands for three
    /// eighths of what the machine or the server's control group has, and for three quarters if tensors live on a GPU.
    pub memory_bytes: u64,
    /// Memory for weights on the device, in bytes; 0 stands for three eighths of what the machine or the server's control group has, on
    /// a GPU for 8 GiB.
    pub weight_budget: u64,
    /// What one call may use at most, whatever its manifest asks for.
    pub grant: Grant,
    /// The program that compiles components, apart from this process.
    pub prepare: PrepareCommand,
    /// Publishes at once; more are refused with 503.
    pub publishes: usize,
    /// How long running calls may take to finish when the server stops.
    pub drain: Duration,
    /// Blobs that no version uses are removed at start when they are older than this; `None` keeps them.
    pub orphan_age: Option<Duration>,
    /// The largest file that a caller may upload, name by URL, or get as an output's file, in bytes.
    pub max_file_bytes: u64,
    /// Files that one owner may keep, in bytes together; each counts 4 KiB more than it has.
    pub files_per_owner_bytes: u64,
    /// How long an uploaded file is kept.
    pub file_ttl: Duration,
    /// How long an output's file is kept.
    pub output_ttl: Duration,
    /// What the files of one input may have together, in bytes.
    pub input_files_bytes: u64,
    /// How long fetching one file of an input by its URL may take.
    pub fetch_timeout: Duration,
    /// Where the server may go for a caller although it is not the public internet: networks (`10.1.0.0/16`), addresses (`10.1.2.3`),
    /// or addresses and names with a port (`127.0.0.1:9000`, `hooks.internal:9000`).
    pub outbound_allow: Vec<String>,
    /// How long a webhook's receiver may take to answer.
    pub webhook_timeout: Duration,
    /// How long webhooks that were delivered or given up stay in the log.
    pub delivery_log: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("maquette-data"),
            bind: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 4747),
            public_url: None,
            trust_forwarded: false,
            auth: true,
            open_metrics: false,
            max_body_bytes: 16 << 20,
            max_blob_bytes: 64 << 30,
            body_memory_bytes: 2 << 30,
            read_timeout: Duration::from_secs(30),
            slowest: 16 << 10,
            connections: 8192,
            streams_per_owner: 2048,
            lanes: 0,
            lane_nice: 2,
            device: Device::Cpu,
            tensor_threads: 0,
            hardware: vec![("cpu".to_owned(), "CPU".to_owned())],
            price_per_ms: 0,
            keep_data: Duration::from_secs(7 * 24 * 3600),
            keep_predictions: Duration::from_secs(90 * 24 * 3600),
            cache_bytes: 256 << 20,
            cache_time: Duration::from_secs(24 * 3600),
            queue_limit: 1024,
            queue_wait: Duration::from_secs(60),
            queue_bytes: 512 << 20,
            open_versions: 256,
            idle: Duration::from_secs(600),
            memory_bytes: 0,
            weight_budget: 0,
            grant: Grant::default(),
            prepare: PrepareCommand::default(),
            publishes: 2,
            drain: Duration::from_secs(30),
            orphan_age: Some(Duration::from_secs(24 * 3600)),
            max_file_bytes: 100 << 20,
            files_per_owner_bytes: 10 << 30,
            file_ttl: Duration::from_secs(24 * 3600),
            output_ttl: Duration::from_secs(3600),
            input_files_bytes: 256 << 20,
            fetch_timeout: Duration::from_secs(30),
            outbound_allow: Vec::new(),
            webhook_timeout: Duration::from_secs(10),
            delivery_log: Duration::from_secs(7 * 24 * 3600),
        }
    }
}

/// The operator's upper bounds on what a version may use for one call; a version gets the minimum of these and its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Wall time, in milliseconds.
    pub timeout_ms: u64,
    /// Linear memory and tables, in bytes.
    pub memory_bytes: u64,
    /// Tensors and temporaries, in bytes.
    pub tensor_bytes: u64,
    /// The output's JSON, in bytes.
    pub output_bytes: u64,
    /// Output files, in bytes.
    pub file_bytes: u64,
    /// Log lines, in bytes.
    pub log_bytes: u64,
}

impl Grant {
    /// What an operator grants who bounds nothing.
    pub(crate) fn unlimited() -> Self {
        Self {
            timeout_ms: u64::MAX,
            memory_bytes: u64::MAX,
            tensor_bytes: u64::MAX,
            output_bytes: u64::MAX,
            file_bytes: u64::MAX,
            log_bytes: u64::MAX,
        }
    }
}

impl Default for Grant {
    fn default() -> Self {
        Self {
            timeout_ms: 600_000,
            memory_bytes: 1 << 30,
            tensor_bytes: 4 << 30,
            output_bytes: 64 << 20,
            file_bytes: 256 << 20,
            log_bytes: 1 << 20,
        }
    }
}

/// The child process that compiles a component, so that a hostile one harms nothing but the child.
///
/// It is run with `--cache FOLDER` behind `args`, gets the parts as JSON on standard input, and answers on standard output; see
/// [`crate::prepare_main`], which is the whole of such a program.
#[derive(Clone, Debug)]
pub struct PrepareCommand {
    /// The program.
    pub program: PathBuf,
    /// What comes before `--cache FOLDER`.
    pub args: Vec<String>,
    /// Wall time after which it is killed.
    pub timeout: Duration,
    /// Processor time after which it is killed, in seconds.
    pub cpu_seconds: u64,
    /// Private writable memory it may have, in bytes (`RLIMIT_DATA`).
    pub memory_bytes: u64,
}

impl Default for PrepareCommand {
    /// This very program with the argument `prepare`.
    fn default() -> Self {
        Self {
            program: std::env::current_exe().unwrap_or_else(|_| PathBuf::from("maquette")),
            args: vec!["prepare".to_owned()],
            timeout: Duration::from_secs(180),
            cpu_seconds: 300,
            memory_bytes: 4 << 30,
        }
    }
}

//! `maquette serve`: the models of a data folder over HTTP, until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use maquette_server::{Config, Server, stop_requested};
use serde_json::json;

use crate::failure::{Failure, Result};
use crate::local::On;
use crate::logs;
use crate::paths;
use crate::ui::Ui;

const EXAMPLES: &str = "\
Examples:
  maquette serve                                      on 127.0.0.1:4747, data in the user's data folder
  maquette serve --data /srv/maquette --bind 0.0.0.0:80 --log-format json
  MAQUETTE_LOG=debug maquette serve

The first start writes a token that allows everything to admin.token in the data folder; the other commands find it there.
SIGTERM or Ctrl-C stops it: running calls finish, new ones are refused. A second one ends it at once.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) server: Settings,
    /// How log lines look.
    #[arg(long, value_enum, default_value = "text", value_name = "FORMAT")]
    log_format: logs::Format,
}

/// What `serve` and `up` share.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Settings {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:4747", value_name = "ADDRESS")]
    pub(crate) bind: SocketAddr,
    /// The folder in which the server keeps everything; else the user's data folder.
    #[arg(long, env = "MAQUETTE_DATA", value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Where clients reach the server, if not where it listens: absolute URLs in replies begin with it.
    #[arg(long, env = "MAQUETTE_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// Believe X-Forwarded-Proto and X-Forwarded-Host; only behind a proxy that sets them itself.
    #[arg(long)]
    trust_forwarded: bool,
    /// Answer without tokens: whoever reaches the address may do everything.
    #[arg(long)]
    no_auth: bool,
    /// Answer /metrics without a token.
    #[arg(long)]
    open_metrics: bool,
    /// Go there for callers (files by URL, webhooks) although it is not the public internet; again for more. A network (10.1.0.0/16), an
    /// address (10.1.2.3), or an address or name with a port (127.0.0.1:9000, hooks.internal:9000).
    #[arg(long, value_name = "ADDR")]
    allow_outbound: Vec<String>,
    /// Calls that run at once; the number of processors unless given.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    lanes: usize,
    /// How far calls stand back behind the threads that answer requests, as `nice` counts.
    #[arg(long, default_value_t = Config::default().lane_nice, value_name = "N", value_parser = clap::value_parser!(i32).range(0..=19))]
    lane_nice: i32,
    /// Threads for tensors; the number of processors unless given.
    #[arg(long, default_value_t = 0, value_name = "N", hide_default_value = true)]
    threads: usize,
    /// What a second of device time costs, in the currency's unit; 0 bills nothing.
    #[arg(long, default_value_t = 0.0, value_name = "AMOUNT", value_parser = price)]
    price: f64,
    /// How long predictions' inputs, outputs and logs are kept after their end, in hours.
    #[arg(long, default_value_t = Config::default().keep_data.as_secs() / 3600, value_name = "HOURS")]
    keep_hours: u64,
    /// Memory for outputs of deterministic versions, in MiB; 0 keeps none.
    #[arg(long, default_value_t = Config::default().cache_bytes >> 20, value_name = "MIB")]
    cache_mb: u64,
    #[command(flatten)]
    pub(crate) on: On,
    /// Calls that may wait.
    #[arg(long, default_value_t = Config::default().queue_limit, value_name = "N")]
    queue: usize,
    /// Connections at once, streams included. When there are more, idle ones are closed; the others wait.
    #[arg(long, default_value_t = Config::default().connections, value_name = "N")]
    connections: usize,
    /// Streams of predictions and runs, and downloads, that may be open at once for each owner.
    #[arg(long, default_value_t = Config::default().streams_per_owner, value_name = "N")]
    streams_per_owner: usize,
    /// Versions kept open at once; those that were called longest ago are closed first.
    #[arg(long, default_value_t = Config::default().open_versions, value_name = "N")]
    open_versions: usize,
    /// The largest request body, in MiB.
    #[arg(long, default_value_t = Config::default().max_body_bytes >> 20, value_name = "MIB")]
    max_body_mb: u64,
    /// Memory that all calls together may hold, in MiB; three eighths of what the machine or the control group has unless given, three
    /// quarters with a GPU.
    #[arg(long, default_value_t = Config::default().memory_bytes >> 20, value_name = "MIB", hide_default_value = true)]
    memory_mb: u64,
    /// Memory for weights on the device, in MiB; three eighths of what the machine or the control group has unless given, 8 GiB on a GPU.
    #[arg(long, default_value_t = Config::default().weight_budget >> 20, value_name = "MIB", hide_default_value = true)]
    weight_budget_mb: u64,
}

impl Settings {
    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone().unwrap_or_else(paths::data)
    }

    /// The server's settings.
    pub(crate) fn config(&self) -> Config {
        Config {
            data: self.data(),
            bind: self.bind,
            public_url: self.public_url.clone(),
            trust_forwarded: self.trust_forwarded,
            auth: !self.no_auth,
            open_metrics: self.open_metrics,
            outbound_allow: self.allow_outbound.clone(),
            lanes: self.lanes,
            lane_nice: self.lane_nice,
            tensor_threads: self.threads,
            // Billionths a millisecond; the bounds of `price` keep it far from an overflow.
            price_per_ms: (self.price * 1e6).round() as u64,
            keep_data: Duration::from_secs(self.keep_hours.saturating_mul(3600)),
            cache_bytes: self.cache_mb.saturating_mul(1 << 20),
            device: self.on.device,
            queue_limit: self.queue,
            connections: self.connections,
            streams_per_owner: self.streams_per_owner,
            open_versions: self.open_versions,
            max_body_bytes: self.max_body_mb.saturating_mul(1 << 20),
            memory_bytes: self.memory_mb.saturating_mul(1 << 20),
            weight_budget: self.weight_budget_mb.saturating_mul(1 << 20),
            ..Config::default()
        }
    }
}

/// A price that can be counted in billionths.
fn price(text: &str) -> std::result::Result<f64, String> {
    match text.parse() {
        Ok(price) if (0.0..=1e6).contains(&price) => Ok(price),
        _ => Err("an amount from 0 to a million".to_owned()),
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &Args, ui: &mut Ui) -> Result<()> {
    logs::start("info", args.log_format);
    args.server.on.check()?;
    runtime()?.block_on(async {
        let server = Server::start(args.server.config()).await?;
        let url = format!("http://{}", server.address());
        let token = server.admin_token_file();
        let document = json!({"url": url, "data": args.server.data(), "token_file": token});
        ui.result(&document, |_| format!("{url}\n"))?;
        ui.step(
            "serving",
            format!("{url}  (data {}; Ctrl-C stops)", args.server.data().display()),
        );
        stop_requested()
            .await
            .map_err(|e| Failure::environment(format!("signals cannot be listened to: {e}")))?;
        server.stop().await;
        ui.step("stopped", "every call that was running has ended");
        Ok(())
    })
}

/// The runtime of a server.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::environment(format!("threads cannot be started: {e}")))
}

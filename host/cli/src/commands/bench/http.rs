//! The trivial call over HTTP, against an axum handler of the same runtime that parses and answers the same JSON itself.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use axum::Json;
use axum::routing::post;
use maquette_package::Digest;
use maquette_package::version::{Blob, SCHEMA, VersionManifest};
use maquette_server::{Config, Server};
use serde_json::Value;

use super::figure::median;
use super::load::{self, Load};
use super::{Aim, Effort, Figure, guest};
use crate::client::Client;
use crate::commands::serve::runtime;
use crate::failure::{Failure, Result};

/// Connections at once.
const CONNECTIONS: usize = 16;

/// How long a round takes.
const ROUND: Duration = Duration::from_millis(1000);

/// Where the model is served, and the native handler too.
const PATH: &str = "/v1/models/bench/echo/run";

/// Measures both in turns.
pub(crate) fn measure(folder: &Path, effort: Effort) -> Result<Vec<Figure>> {
    let wasm = guest::echo()?;
    let component = folder.join("http-echo.wasm");
    std::fs::write(&component, &wasm).map_err(|e| Failure::file("write", &component, &e))?;
    let runtime = runtime()?;
    let server = runtime.block_on(Server::start(config(folder.join("http"))))?;
    let native = runtime.block_on(native())?;
    let base = format!("http://{}", server.address());
    let client = Client::new(&base, Some(server.admin_token().to_owned()));
    client.put_blob(&Digest::of(&wasm), &component, &mut maquette_package::Silent)?;
    client
        .publish("bench", &manifest(&wasm, ""), &["latest".to_owned()], true)
        .map(drop)?;
    let request = load::request(PATH, server.admin_token(), r#"{"text":"hello"}"#);

    let rounds = effort.rounds(8);
    let once = |address: SocketAddr| load::run(address, &request, CONNECTIONS, ROUND);
    // The first of each opens the version and warms both.
    once(server.address())?;
    once(native)?;
    let (mut ours, mut theirs): (Vec<Load>, Vec<Load>) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(once(server.address())?);
        theirs.push(once(native)?);
    }
    runtime.block_on(server.stop());
    let of = |loads: &[Load], what: fn(&Load) -> f64| median(loads.iter().map(what).collect());
    let ratio = median(ours.iter().zip(&theirs).map(|(a, b)| a.rate() / b.rate()).collect());
    let cpu = median(ours.iter().zip(&theirs).map(|(a, b)| a.cpu_us() / b.cpu_us()).collect());
    let how = format!(
        "median of {rounds} rounds of {} s, {CONNECTIONS} keep-alive connections over loopback, the load generator in the same process",
        ROUND.as_secs_f64()
    );
    let figure = |id, what: &str, value, unit, aim, how: String| Figure {
        id,
        what: what.to_owned(),
        value,
        unit,
        aim,
        how,
    };
    Ok(vec![
        figure(
            "http.ratio",
            "requests/s over a native axum handler's",
            ratio,
            "x",
            Aim::Least(0.5),
            how.clone(),
        ),
        figure(
            "http.rate",
            "  maquette",
            of(&ours, Load::rate),
            "req/s",
            Aim::None,
            "token checked, input validated, fresh sandbox, request id, metrics".to_owned(),
        ),
        figure(
            "http.native_rate",
            "  axum",
            of(&theirs, Load::rate),
            "req/s",
            Aim::None,
            "`Json<Value>` in, `Json<Value>` out, same runtime, in turns with the above".to_owned(),
        ),
        figure(
            "http.cpu_us",
            "  CPU a request, maquette",
            of(&ours, Load::cpu_us),
            "us CPU",
            Aim::None,
            "this process, the load generator's thread not counted".to_owned(),
        ),
        figure(
            "http.native_cpu_us",
            "  CPU a request, axum",
            of(&theirs, Load::cpu_us),
            "us CPU",
            Aim::None,
            format!("the same; the ratio of the two is {cpu:.2}"),
        ),
    ])
}

/// A server that keeps to itself.
pub(crate) fn config(data: std::path::PathBuf) -> Config {
    Config {
        data,
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..Config::default()
    }
}

/// A version of the echo; another description makes another version.
pub(crate) fn manifest(wasm: &[u8], description: &str) -> VersionManifest {
    VersionManifest {
        schema: SCHEMA,
        name: "echo".to_owned(),
        version: "1.0.0".to_owned(),
        description: description.to_owned(),
        license: None,
        task: None,
        deterministic: None,
        component: Blob {
            sha256: Digest::of(wasm),
            size: wasm.len() as u64,
        },
        weights: Default::default(),
        assets: Default::default(),
        limits: Default::default(),
        cases: Vec::new(),
        readme: None,
    }
}

/// The native handler.
async fn native() -> Result<SocketAddr> {
    let fail = |e: std::io::Error| Failure::environment(format!("the native server cannot start: {e}"));
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        // As the other server does; without it, small answers wait.
        let _ = stream.set_nodelay(true);
    });
    let router = axum::Router::new().route(PATH, post(async |Json(input): Json<Value>| Json(input)));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

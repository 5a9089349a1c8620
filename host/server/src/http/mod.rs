//! HTTP: the router, and the loop that accepts connections. What a path does stands in the module of its name.

mod account;
pub(crate) mod body;
pub(crate) mod cards;
mod collections;
pub(crate) mod connections;
mod deployments;
mod download;
mod examples;
mod files;
mod listing;
mod models;
mod mounts;
mod ops;
pub(crate) mod origin;
mod predictions;
pub(crate) mod publish;
mod reply;
mod run;
mod search;
mod sse;
pub(crate) mod streams;
mod tokens;
pub(crate) mod upload;
pub(crate) mod uploads;
mod usage;
mod webhooks;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::DefaultBodyLimit;
use axum::http::header::ACCESS_CONTROL_ALLOW_ORIGIN;
use axum::http::{HeaderName, Request, Response, StatusCode};
use axum::response::IntoResponse as _;
use axum::routing::{delete, get, post, put};
use connections::{Place, Sent};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
pub(crate) use models::{parse_timestamp, timestamp};
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt as _;
use tracing::Instrument as _;

use crate::app::App;
use crate::ids;
use crate::problem::Problem;

/// Names a request in logs and replies; taken over from the client if it is harmless.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The largest head of a request, in bytes.
const MAX_HEAD: usize = 32 << 10;

/// How long a client may leave sent bytes unacknowledged, or not read its reply, before the connection is given up.
const UNREAD_MS: u32 = 120_000;

/// Replies up to so many bytes are on their way at once: nobody waits until they are read.
const SMALL: u64 = 256 << 10;

/// Every path.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route(
            "/v1/models",
            get(models::list).post(cards::create).options(search::query),
        )
        .route(
            "/v1/models/{owner}/{name}",
            get(models::model).patch(cards::change).delete(cards::remove),
        )
        .route("/v1/models/{owner}/{name}/readme", get(cards::readme))
        .route("/v1/models/{owner}/{name}/examples", get(examples::list))
        .route(
            "/v1/models/{owner}/{name}/versions/{version}/trainings",
            post(account::train),
        )
        .route("/v1/search", get(search::search))
        .route("/v1/collections", get(collections::list))
        .route(
            "/v1/collections/{slug}",
            get(collections::get).put(collections::put).delete(collections::remove),
        )
        .route("/v1/deployments", get(deployments::list).post(deployments::create))
        .route(
            "/v1/deployments/{owner}/{name}",
            get(deployments::get)
                .patch(deployments::change)
                .delete(deployments::remove),
        )
        .route(
            "/v1/deployments/{owner}/{name}/predictions",
            post(predictions::of_deployment),
        )
        .route("/v1/hardware", get(account::hardware))
        .route("/v1/account", get(account::account))
        .route("/v1/trainings", get(account::trainings))
        .route("/v1/trainings/{id}", get(account::training))
        .route("/v1/trainings/{id}/cancel", post(account::training))
        .route("/v1/models/{owner}/{name}/run", post(run::latest))
        .route(
            "/v1/models/{owner}/{name}/versions",
            get(models::versions).post(publish::version),
        )
        .route(
            "/v1/models/{owner}/{name}/versions/{version}",
            get(models::version).delete(cards::remove_version),
        )
        .route(
            "/v1/models/{owner}/{name}/versions/{version}/openapi.json",
            get(models::openapi),
        )
        .route("/v1/models/{owner}/{name}/versions/{version}/run", post(run::version))
        .route(
            "/v1/models/{owner}/{name}/versions/{version}/release",
            post(publish::release),
        )
        .route("/v1/models/{owner}/{name}/aliases/{alias}", put(publish::alias))
        .route("/v1/models/{owner}/{name}/predictions", post(predictions::of_model))
        .route("/v1/predictions", get(predictions::list).post(predictions::create))
        .route(
            "/v1/predictions/{id}",
            get(predictions::get).put(predictions::put).delete(predictions::remove),
        )
        .route("/v1/predictions/{id}/cancel", post(predictions::cancel))
        .route("/v1/streams/{owner}/{id}", get(streams::stream))
        .route("/v1/usage", get(usage::report))
        .route("/v1/spend-limits/{owner}", put(usage::limit))
        .route("/v1/publish/missing", post(publish::missing))
        .route("/v1/blobs/{sha256}", put(publish::blob))
        .route("/v1/files", get(files::list).post(files::create))
        .route("/v1/files/{id}", get(files::get).delete(files::remove))
        .route("/v1/files/{id}/download", get(files::bytes))
        .route("/v1/webhooks/default/secret", get(webhooks::secret))
        .route("/v1/webhooks/deliveries", get(webhooks::list))
        .route("/v1/webhooks/deliveries/{id}", get(webhooks::get))
        .route("/v1/webhooks/deliveries/{id}/redeliver", post(webhooks::redeliver))
        .route("/v1/tokens", get(tokens::list).post(tokens::create))
        .route("/v1/tokens/{id}", delete(tokens::revoke))
        .route("/openapi.json", get(ops::openapi))
        .route("/healthz", get(ops::health))
        .route("/readyz", get(ops::ready))
        .route("/metrics", get(ops::metrics))
        .fallback(async || Problem::not_found("this path"))
        .method_not_allowed_fallback(async || Problem::method_not_allowed(None))
        // Each handler bounds its body itself.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

/// Accepts connections until it is dropped.
pub(crate) async fn listen(app: &Arc<App>, listener: TcpListener, connections: &GracefulShutdown) {
    let router = router(Arc::clone(app));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(app.config.read_timeout)
        .max_buf_size(MAX_HEAD.max(8192));
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                // Out of files, most likely: what is open now has to end first.
                tracing::warn!("a connection could not be accepted: {e}");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        settle(&stream);
        let Some(place) = app.connections.place().await else {
            return;
        };
        let (app, router, at) = (Arc::clone(app), router.clone(), Arc::clone(&place));
        let service = service_fn(move |request| serve(Arc::clone(&app), router.clone(), Arc::clone(&at), request));
        let connection = connections.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            tokio::select! {
                biased;
                // Errors here are clients that left or sent no HTTP.
                ended = connection => if let Err(e) = ended {
                    tracing::debug!("a connection ended: {e}");
                },
                () = place.leave() => tracing::debug!("a connection was idle or slow, and is closed"),
            }
        });
    }
}

/// Small replies leave at once; a peer that is gone or never reads is noticed.
fn settle(stream: &TcpStream) {
    let result = stream
        .set_nodelay(true)
        .and_then(|()| Ok(rustix::net::sockopt::set_tcp_user_timeout(stream, UNREAD_MS)?))
        .and_then(|()| Ok(rustix::net::sockopt::set_socket_keepalive(stream, true)?));
    if let Err(e) = result {
        tracing::debug!("a connection's options could not be set: {e}");
    }
}

/// One request of a connection.
async fn serve(
    app: Arc<App>,
    router: Router,
    at: Arc<Place>,
    request: Request<Incoming>,
) -> Result<Response<Sent>, Infallible> {
    at.is_busy();
    let response = answer(&app, router, request).await?;
    let size = body::announced(response.headers()).or_else(|| HttpBody::size_hint(response.body()).exact());
    let time = size
        .filter(|size| *size > SMALL)
        .map(|size| body::Slowest::of(&app.config).time(size));
    Ok(response.map(|body| Sent::new(body, at, time)))
}

/// One request: names it, routes it, logs and counts the response.
async fn answer(app: &App, router: Router, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let started = Instant::now();
    let mut request = request.map(Body::new);
    let preflight = mounts::preflight(&request);
    mounts::settle(&mut request);
    let id = ids::of_request(request.headers().get(&REQUEST_ID));
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let logged = tracing::enabled!(tracing::Level::INFO);
    let (method, path) = if logged {
        (request.method().clone(), request.uri().path().to_owned())
    } else {
        Default::default()
    };
    let mut response = match preflight {
        Some(response) => response,
        None if logged => {
            let span = tracing::info_span!("request", id = id.to_str().unwrap_or_default());
            let routed = router.oneshot(request).instrument(span).await;
            routed.unwrap_or_else(|never| match never {})
        }
        None => router.oneshot(request).await.unwrap_or_else(|never| match never {}),
    };
    let status = response.status();
    app.metrics.responded(status.as_u16());
    if logged {
        log(
            &method,
            &path,
            status,
            id.to_str().unwrap_or_default(),
            started.elapsed(),
        );
    }
    response.headers_mut().insert(REQUEST_ID, id);
    // Every answer may be read by any page: what is private needs a token, which a browser does not add by itself.
    response
        .headers_mut()
        .insert(ACCESS_CONTROL_ALLOW_ORIGIN, axum::http::HeaderValue::from_static("*"));
    if app.stopping.load(Ordering::Relaxed) {
        response.headers_mut().insert(
            axum::http::header::CONNECTION,
            axum::http::HeaderValue::from_static("close"),
        );
    }
    Ok(response)
}

/// What went well is for those who ask (debug), and so is what found no room: a crowd is in the figures, and a line for each would make
/// it worse. What else was refused is news; what failed is a warning.
fn log(method: &axum::http::Method, path: &str, status: StatusCode, id: &str, took: Duration) {
    let ms = took.as_secs_f64() * 1e3;
    let status = status.as_u16();
    // A path is the client's text.
    let path = crate::names::shown(&crate::redact::without_tokens(path));
    match status {
        429 | 503 => tracing::debug!(%method, path, status, ms, id, "found no room"),
        500.. => tracing::warn!(%method, path, status, ms, id, "failed"),
        400.. => tracing::info!(%method, path, status, ms, id, "refused"),
        _ => tracing::debug!(%method, path, status, ms, id, "served"),
    }
}

/// A reply with a JSON body.
pub(crate) fn json(status: StatusCode, body: &serde_json::Value) -> Response<Body> {
    let content_type = [(axum::http::header::CONTENT_TYPE, "application/json")];
    (status, content_type, body.to_string()).into_response()
}

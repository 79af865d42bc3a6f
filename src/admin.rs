//! The HTTP server of a running instance: `/livez`, `/readyz[?verbose]`, `/healthz`, `/metrics`.
//!
//! Owns the routes. Connections belong to `serve`; what counts as healthy is decided by the holders of the [`Health`]
//! handles. Knows no database and no broker, so an answer never takes longer because one of them is down.
//! Invariant: no request reads or changes data, so any address is acceptable to listen on. Routes that do would need
//! tokens.

mod serve;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::config::AdminConfig;
use crate::error::{Code, Error, Result};
use crate::health::{Health, Report};
use crate::metrics::Metrics;

/// Maximum time for one request. Today every answer comes from memory, so only a bug can reach it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// The admin server, bound and not yet serving.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    limits: serve::Limits,
}

impl Server {
    /// Takes the port, so that a start with a wrong address fails before any work begins.
    /// Errors: [`Code::AdminListen`].
    pub async fn bind(settings: &AdminConfig, health: Health, metrics: Metrics) -> Result<Self> {
        let wanted = settings.listen;
        let listener = TcpListener::bind(wanted).await.map_err(|error| cannot_listen(wanted, error))?;
        let address = listener.local_addr().map_err(|error| cannot_listen(wanted, error))?;
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "the admin server accepts connections from other hosts; health and metrics are readable without authentication");
        }
        Ok(Self { listener, address, router: router(health, metrics), limits: serve::Limits::default() })
    }

    /// The address in use; its port differs from the settings when they say 0.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop` is cancelled, then lets open requests end, at most `serve::Limits::drain`. On a thread of
    /// its own, so that it tells how things are even when everything else is stuck.
    ///
    /// Errors: the thread cannot be started.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        let Self { listener, address, router, limits } = self;
        let failed = |error: io::Error| Error::new(Code::Unexpected, "cannot start the admin server").caused_by(error);
        let listener = listener.into_std().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (ended, end) = oneshot::channel();
        let serve = move || {
            let served = runtime.block_on(async {
                let listener = TcpListener::from_std(listener)?;
                serve::serve(listener, router, limits, stop).await;
                Ok(())
            });
            // Whoever waits for that may be gone.
            drop(ended.send(served));
            runtime.shutdown_background();
        };
        std::thread::Builder::new().name("admin".to_owned()).spawn(serve).map_err(failed)?;
        tracing::info!(%address, "admin server listening");
        let gone = |_| Error::new(Code::Unexpected, "the thread of the admin server panicked");
        end.await.map_err(gone)?.map_err(failed)
    }
}

fn cannot_listen(address: SocketAddr, error: io::Error) -> Error {
    let kind = error.kind();
    let failed = Error::new(Code::AdminListen, format!("cannot listen on {address}")).caused_by(error);
    if kind == io::ErrorKind::AddrInUse {
        failed.hint("another process uses this port; set admin.listen to a free port (0 picks any), or set admin.enabled = false")
    } else if kind == io::ErrorKind::PermissionDenied {
        failed.hint("ports below 1024 require privileges; set admin.listen to a higher port")
    } else {
        failed.hint("admin.listen must be an address of this host, such as 127.0.0.1:8080 or 0.0.0.0:8080")
    }
}

#[derive(Debug, Clone)]
struct Shared {
    health: Health,
    metrics: Metrics,
}

fn router(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/healthz", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn(within_time))
        .with_state(Shared { health, metrics })
}

async fn within_time(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let Ok(answer) = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await else {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "GEN500", "the answer took too long", &path);
    };
    answer
}

async fn livez(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    health_answer("livez", &shared.health.liveness(), query.as_deref())
}

async fn readyz(State(shared): State<Shared>, RawQuery(query): RawQuery) -> Response {
    health_answer("readyz", &shared.health.readiness(), query.as_deref())
}

/// In the style of Kubernetes: `ok`, or with `?verbose` and on failure a line per check.
fn health_answer(name: &str, report: &Report, query: Option<&str>) -> Response {
    let verbose =
        query.is_some_and(|query| query.split('&').any(|part| part == "verbose" || part.starts_with("verbose=")));
    let (status, body) = match (report.is_ok(), verbose) {
        (true, false) => (StatusCode::OK, "ok".to_owned()),
        (true, true) => (StatusCode::OK, format!("{report}{name} check passed\n")),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, format!("{report}{name} check failed\n")),
    };
    // A cached answer about health is worse than none.
    (status, [(header::CONTENT_TYPE, TEXT), (header::CACHE_CONTROL, "no-store")], body).into_response()
}

async fn metrics_text(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], shared.metrics.encode()).into_response()
}

async fn not_found(uri: Uri) -> Response {
    failure(StatusCode::NOT_FOUND, "GEN001", "no such path; available are /livez, /readyz and /metrics", uri.path())
}

async fn method_not_allowed(uri: Uri) -> Response {
    failure(StatusCode::METHOD_NOT_ALLOWED, "GEN001", "this path answers GET only", uri.path())
}

/// The error body that every HTTP interface of this program uses. The codes are those of the public contract.
fn failure(status: StatusCode, code: &str, message: &str, path: &str) -> Response {
    let body = serde_json::json!({
        "code": code,
        "message": message,
        "timestamp": clock::wall().to_string(),
        "path": path,
        "details": null,
    });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt;

    async fn get_path(router: &Router, path: &str) -> (StatusCode, String, String) {
        let answer = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let kind = answer.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
        let body = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        (status, kind, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_checks_and_names_the_failing_one() {
        let health = Health::default();
        let router = router(health.clone(), Metrics::new());
        let postgres = health.check("postgres");
        let kafka = health.check("kafka");
        postgres.ok();
        let (status, _, body) = get_path(&router, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, "[+]postgres ok\n[-]kafka failed: starting\nreadyz check failed\n");

        kafka.ok();
        assert_eq!(get_path(&router, "/readyz").await.0, StatusCode::OK);
        let (_, _, body) = get_path(&router, "/readyz?verbose").await;
        assert_eq!(body, "[+]postgres ok\n[+]kafka ok\nreadyz check passed\n");

        kafka.failing("no broker answers");
        let (status, _, body) = get_path(&router, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("[-]kafka failed: no broker answers (failing for 0 s)\n"), "{body}");
    }

    #[tokio::test]
    async fn a_process_that_is_not_ready_is_alive() {
        let health = Health::default();
        let _never_ok = health.check("kafka");
        let router = router(health, Metrics::new());
        for path in ["/livez", "/healthz"] {
            let (status, _, body) = get_path(&router, path).await;
            assert_eq!((status, body.as_str()), (StatusCode::OK, "ok"));
        }
    }

    #[tokio::test]
    async fn metrics_are_openmetrics() {
        let (status, kind, body) = get_path(&router(Health::default(), Metrics::new()), "/metrics").await;
        assert_eq!((status, kind.as_str()), (StatusCode::OK, OPENMETRICS));
        assert!(body.contains("outbox_relay_build_info{"), "{body}");
        assert!(body.ends_with("# EOF\n"), "{body}");
    }

    #[tokio::test]
    async fn an_unknown_path_is_a_json_error() {
        let (status, kind, body) = get_path(&router(Health::default(), Metrics::new()), "/api/v2?x=1").await;
        assert_eq!((status, kind.as_str()), (StatusCode::NOT_FOUND, "application/json"));
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&body["code"], &body["path"]), (&"GEN001".into(), &"/api/v2".into()));
        assert!(body["timestamp"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_an_error_with_advice() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = AdminConfig { listen: taken.local_addr().unwrap(), ..AdminConfig::default() };
        let error = Server::bind(&settings, Health::default(), Metrics::new()).await.unwrap_err();
        assert_eq!(error.code(), Code::AdminListen);
        assert!(error.hint_text().unwrap().contains("admin.listen"));
    }

    /// The one thread of this runtime blocks while it asks.
    #[tokio::test]
    async fn the_server_answers_while_the_runtime_that_started_it_is_stuck() {
        use std::io::{Read, Write};
        let settings = AdminConfig { listen: SocketAddr::from(([127, 0, 0, 1], 0)), ..AdminConfig::default() };
        let server = Server::bind(&settings, Health::default(), Metrics::new()).await.unwrap();
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        let mut running = Box::pin(server.run(stop.clone()));
        let begun = std::future::poll_fn(|context| std::task::Poll::Ready(running.as_mut().poll(context).is_pending()));
        assert!(begun.await, "it serves");
        let mut client = std::net::TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("an answer from another thread");
        assert!(answer.ends_with("ok"), "{answer}");
        stop.cancel();
        running.await.unwrap();
    }
}

//! Accepts and serves connections, each within limits. `axum::serve` sets no timers, so a client that sends one header
//! byte a minute would keep its connection forever.
//!
//! Invariant: there are at most [`Limits::connections`], and a new one is always accepted: it replaces the connection
//! that has been silent longest. Clients that connect and stay silent therefore cannot keep a probe waiting.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::supervisor;

/// What one client may use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time. Probes and a few scrapers need a handful.
    pub(super) connections: u32,
    /// From the start of a request to the end of its headers, and how long a kept connection may be idle.
    pub(super) headers: Duration,
    /// Life of a connection: bounds a client that does not read its answer. A scraper just connects again.
    pub(super) lifetime: Duration,
    /// For open requests to end, after a stop or the end of the lifetime.
    pub(super) drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            headers: Duration::from_secs(5),
            lifetime: Duration::from_secs(60),
            drain: Duration::from_secs(3),
        }
    }
}

pub(super) async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let connections = Connections::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Cancel safe: a connection not yet accepted stays in the backlog.
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                connections.make_room(limits.connections);
                let place = connections.enter();
                let (router, stop) = (router.clone(), stop.clone());
                supervisor::detach("admin connection", async move {
                    let evicted = place.evicted.clone();
                    tokio::select! {
                        () = connection(stream, router, limits, Arc::clone(&place.busy), stop) => {}
                        () = evicted.cancelled() => tracing::debug!("closed an idle admin connection to make room for a new one"),
                    }
                    drop(place);
                });
            }
            Err(error) => accept_failed(&error, &stop).await,
        }
    }
    drop(listener);
    if timeout(limits.drain, connections.ended()).await.is_err() {
        tracing::debug!("closed open admin connections at shutdown");
    }
}

/// The connections that are open, the oldest first.
#[derive(Debug, Clone, Default)]
struct Connections {
    open: Arc<Mutex<Open>>,
    ended: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, (CancellationToken, Arc<AtomicBool>)>,
}

/// The place of one connection, given back when dropped.
struct Place {
    number: u64,
    /// Another connection takes the place.
    evicted: CancellationToken,
    /// A request is being answered.
    busy: Arc<AtomicBool>,
    connections: Connections,
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the oldest connection without a request, or else the oldest, if there are `most`.
    fn make_room(&self, most: u32) {
        let mut open = self.lock();
        while open.connections.len() >= most as usize {
            let idle = open.connections.iter().find(|(_, (_, busy))| !busy.load(Ordering::Relaxed));
            let Some(number) = idle.or(open.connections.iter().next()).map(|(number, _)| *number) else { return };
            if let Some((evicted, _)) = open.connections.remove(&number) {
                evicted.cancel();
            }
        }
    }

    fn enter(&self) -> Place {
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        let (evicted, busy) = (CancellationToken::new(), Arc::new(AtomicBool::new(false)));
        open.connections.insert(number, (evicted.clone(), Arc::clone(&busy)));
        Place { number, evicted, busy, connections: self.clone() }
    }

    /// Waits until none is open.
    async fn ended(&self) {
        loop {
            let next = self.ended.notified();
            if self.lock().connections.is_empty() {
                return;
            }
            next.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.lock().connections.remove(&self.number);
        self.connections.ended.notify_one();
    }
}

/// A client that went away before we took it is nothing. Running out of file descriptors passes, but not at once.
async fn accept_failed(error: &io::Error, stop: &CancellationToken) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "could not accept a connection to the admin server");
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(Duration::from_millis(500)) => {}
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, busy: Arc<AtomicBool>, stop: CancellationToken) {
    let router = router.layer(middleware::from_fn(move |request, next| mark_busy(Arc::clone(&busy), request, next)));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.headers)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut served = std::pin::pin!(served);
    tokio::select! {
        ended = served.as_mut() => return log_end(ended),
        () = stop.cancelled() => {}
        () = sleep(limits.lifetime) => {}
    }
    served.as_mut().graceful_shutdown();
    if let Ok(ended) = timeout(limits.drain, served).await {
        log_end(ended);
    }
}

async fn mark_busy(busy: Arc<AtomicBool>, request: Request, next: Next) -> Response {
    busy.store(true, Ordering::Relaxed);
    let answer = next.run(request).await;
    busy.store(false, Ordering::Relaxed);
    answer
}

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection closed early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Maximum wait of a test for something that must happen.
    const SOON: Duration = Duration::from_secs(10);

    fn short() -> Limits {
        Limits { connections: 2, headers: Duration::from_millis(200), ..Limits::default() }
    }

    /// A server on a free port. It serves until the guard is dropped.
    async fn start(limits: Limits) -> (SocketAddr, CancellationToken, tokio::sync::oneshot::Receiver<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "here" }));
        let (stop, (ended, wait)) = (CancellationToken::new(), tokio::sync::oneshot::channel());
        let token = stop.clone();
        supervisor::detach("test server", async move {
            serve(listener, router, limits, token).await;
            ended.send(()).expect("the test waits");
        });
        (address, stop, wait)
    }

    async fn read_all(stream: &mut TcpStream) -> String {
        let mut text = String::new();
        timeout(SOON, stream.read_to_string(&mut text)).await.expect("the server closes the connection").unwrap();
        text
    }

    #[tokio::test]
    async fn a_client_that_never_ends_its_headers_is_cut_off() {
        let (address, _stop, _) = start(short()).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nslow: ").await.unwrap();
        // Without the timer this read would wait forever.
        read_all(&mut slow).await;
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_cut_off() {
        let (address, _stop, _) = start(short()).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(read_all(&mut silent).await, "");
    }

    #[tokio::test]
    async fn a_connection_over_the_limit_takes_the_place_of_the_one_that_was_silent_for_longest() {
        let (address, _stop, _) = start(Limits { headers: SOON * 10, ..short() }).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        for _ in 0..20 {
            // Each of these pushes the one before it out.
            let mut next = TcpStream::connect(address).await.unwrap();
            let mut probe = TcpStream::connect(address).await.unwrap();
            probe.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
            assert!(read_all(&mut probe).await.ends_with("here"));
            std::mem::swap(&mut silent, &mut next);
            assert_eq!(read_all(&mut next).await, "", "it is closed");
        }
    }

    #[tokio::test]
    async fn a_connection_ends_with_its_lifetime() {
        let limits = Limits { lifetime: Duration::from_millis(50), headers: SOON * 10, ..Limits::default() };
        let (address, _stop, _) = start(limits).await;
        let mut kept = TcpStream::connect(address).await.unwrap();
        kept.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        assert!(read_all(&mut kept).await.ends_with("here"));
    }

    #[tokio::test]
    async fn a_stop_ends_idle_connections_and_the_server() {
        let limits = Limits { headers: SOON * 10, lifetime: SOON * 10, ..Limits::default() };
        let (address, stop, ended) = start(limits).await;
        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.unwrap();
        stop.cancel();
        read_all(&mut idle).await;
        timeout(SOON, ended).await.expect("the server ends").unwrap();
    }
}

//! Accepts connections and serves them, each within limits. `axum::serve` sets no timer, so that a client that sends a
//! header byte a minute would keep its connection for ever.
//!
//! Invariant: a connection costs at most [`Limits::lifetime`] and there are at most [`Limits::connections`]; more wait in
//! the backlog of the socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
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
    let slots = Arc::new(Semaphore::new(limits.connections as usize));
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            // Cancel safe: a slot that was taken is given back, a connection not yet accepted stays in the backlog.
            accepted = async {
                let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
                (slot, listener.accept().await)
            } => accepted,
        };
        match accepted {
            (slot, Ok((stream, _))) => {
                let (router, stop) = (router.clone(), stop.clone());
                supervisor::detach("admin connection", async move {
                    connection(stream, router, limits, stop).await;
                    drop(slot);
                });
            }
            (_, Err(error)) => accept_failed(&error, &stop).await,
        }
    }
    drop(listener);
    // All slots free: every connection has ended.
    if timeout(limits.drain, slots.acquire_many(limits.connections)).await.is_err() {
        tracing::debug!("admin connections were cut at the stop");
    }
}

/// A client that went away before we took it is nothing. Running out of file descriptors passes, but not at once.
async fn accept_failed(error: &io::Error, stop: &CancellationToken) {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
        return;
    }
    tracing::warn!(%error, "cannot accept a connection to the admin server");
    tokio::select! {
        () = stop.cancelled() => {}
        () = sleep(Duration::from_millis(500)) => {}
    }
}

async fn connection(stream: TcpStream, router: Router, limits: Limits, stop: CancellationToken) {
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

fn log_end(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "an admin connection ended early");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Longest wait of a test for something that must happen.
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
        // Without the timer this read would wait for ever.
        read_all(&mut slow).await;
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_cut_off() {
        let (address, _stop, _) = start(short()).await;
        let mut silent = TcpStream::connect(address).await.unwrap();
        assert_eq!(read_all(&mut silent).await, "");
    }

    #[tokio::test]
    async fn connections_over_the_limit_wait_until_one_ends() {
        let (address, _stop, _) = start(short()).await;
        let began = std::time::Instant::now();
        let _silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let mut third = TcpStream::connect(address).await.unwrap();
        third.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        assert!(read_all(&mut third).await.ends_with("here"));
        assert!(began.elapsed() >= short().headers, "it was served beside the two that are allowed");
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

//! A TCP proxy that makes the network bad: slow, silent, or gone, per direction, and for single requests.
//!
//! What is held back is delivered later, even when its sender has long closed the connection: that is how a request of
//! a former owner arrives after those of its successor. What is swallowed is gone, and a connection that lost bytes is
//! reset when the weather clears, because its stream makes no sense any more.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_relay::supervisor::detach;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::time::pass;
use crate::traps::{Fate, Memory, Protocol, Traps, next_piece};
use crate::weather::{Direction, Weather};

/// A listening port in front of a server.
pub struct Proxy {
    pub port: u16,
    inner: Arc<Inner>,
}

struct Inner {
    protocol: Protocol,
    upstream: Mutex<Option<SocketAddr>>,
    sky: watch::Sender<Sky>,
    traps: Traps,
}

/// The weather over all connections of a proxy.
#[derive(Debug, Clone, Copy, Default)]
struct Sky {
    requests: Option<Weather>,
    answers: Option<Weather>,
    /// Grows with every reset.
    resets: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Requests,
    Answers,
}

impl Sky {
    fn over(&self, side: Side) -> Option<Weather> {
        match side {
            Side::Requests => self.requests,
            Side::Answers => self.answers,
        }
    }
}

impl Proxy {
    /// Listens on a free port. Until [`Proxy::lead_to`], connections are refused by a reset.
    pub async fn start(protocol: Protocol) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let inner = Arc::new(Inner {
            protocol,
            upstream: Mutex::default(),
            sky: watch::Sender::new(Sky::default()),
            traps: Traps::default(),
        });
        let accepting = Arc::clone(&inner);
        detach("proxy", async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => detach("proxied connection", Arc::clone(&accepting).carry(client)),
                    // No descriptor left, or the client has gone already.
                    Err(_) => pass(Duration::from_millis(10)).await,
                }
            }
        });
        Self { port, inner }
    }

    /// A proxy in front of a port of this machine.
    pub async fn to(protocol: Protocol, port: u16) -> Self {
        let proxy = Self::start(protocol).await;
        proxy.lead_to(port);
        proxy
    }

    /// New connections go there; those that are open stay where they are.
    pub fn lead_to(&self, port: u16) {
        let mut upstream = self.inner.upstream.lock().expect("nobody panics with it");
        *upstream = Some(SocketAddr::from(([127, 0, 0, 1], port)));
    }

    pub fn set_weather(&self, direction: Direction, weather: Option<Weather>) {
        self.inner.sky.send_modify(|sky| {
            if direction != Direction::Answers {
                sky.requests = weather;
            }
            if direction != Direction::Requests {
                sky.answers = weather;
            }
        });
    }

    /// Resets every connection that is open now.
    pub fn reset(&self) {
        self.inner.sky.send_modify(|sky| sky.resets += 1);
    }

    pub fn traps(&self) -> &Traps {
        &self.inner.traps
    }
}

/// One connection while it is carried.
struct Connection {
    inner: Arc<Inner>,
    memory: Memory,
    /// Bytes of it were swallowed.
    torn: AtomicBool,
}

/// The connection has to be reset.
struct Torn;

impl Inner {
    async fn carry(self: Arc<Self>, mut client: TcpStream) {
        let upstream = *self.upstream.lock().expect("nobody panics with it");
        let server = match upstream {
            Some(upstream) => TcpStream::connect(upstream).await,
            None => Err(io::Error::other("nothing is behind this proxy yet")),
        };
        let Ok(mut server) = server else {
            drop(client.set_zero_linger());
            return;
        };
        drop((client.set_nodelay(true), server.set_nodelay(true)));
        let connection = Connection { inner: self, memory: Memory::default(), torn: AtomicBool::new(false) };
        let torn = {
            let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
            // Each way ends by itself: what a client sent before it went away still arrives.
            let both = async {
                tokio::try_join!(
                    connection.pump(Side::Requests, from_client, to_server),
                    connection.pump(Side::Answers, from_server, to_client)
                )
            };
            tokio::select! {
                ended = both => ended.is_err(),
                () = connection.torn_by_the_weather() => true,
            }
        };
        if torn {
            drop((client.set_zero_linger(), server.set_zero_linger()));
        }
    }
}

impl Connection {
    /// Ends when all connections are reset, and when the sky clears over one that lost bytes.
    async fn torn_by_the_weather(&self) {
        let mut sky = self.inner.sky.subscribe();
        let resets = sky.borrow().resets;
        loop {
            let now = *sky.borrow_and_update();
            let swallowing = [now.requests, now.answers].contains(&Some(Weather::Swallow));
            if now.resets != resets || (self.torn.load(Ordering::Relaxed) && !swallowing) {
                return;
            }
            if sky.changed().await.is_err() {
                return;
            }
        }
    }

    /// Carries one direction to its end. A broken socket ends it like a closed one.
    async fn pump(
        &self,
        side: Side,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Result<(), Torn> {
        while let Ok(Some(piece)) = next_piece(&mut from, self.inner.protocol).await {
            let fate = match side {
                Side::Requests => self.inner.traps.request(self.inner.protocol, &piece, &self.memory),
                Side::Answers => self.memory.answer(self.inner.protocol, &piece),
            };
            match fate {
                Fate::Pass => {}
                Fate::Late(delay) => pass(delay).await,
                Fate::UntilNext(id, limit) => {
                    drop(timeout(limit, self.inner.traps.next_transaction(&id)).await);
                    // It must come after the request that begins the transaction, which takes another connection.
                    pass(Duration::from_millis(10)).await;
                }
                Fate::Lost => continue,
                Fate::Cut => return Err(Torn),
            }
            if self.deliver(side, &piece, &mut to).await.is_err() {
                break;
            }
        }
        drop(to.shutdown().await);
        Ok(())
    }

    /// Delivers a piece through whatever weather there is.
    async fn deliver(&self, side: Side, piece: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let mut sky = self.inner.sky.subscribe();
        loop {
            let weather = sky.borrow_and_update().over(side);
            match weather {
                None => {}
                Some(Weather::Delay(delay)) => pass(delay).await,
                Some(Weather::Throttle { bytes_per_second }) => {
                    let seconds = piece.len() as f64 / f64::from(bytes_per_second);
                    // A large piece does not take the link away for minutes: the weather is over long before.
                    pass(Duration::from_secs_f64(seconds.min(5.0))).await;
                }
                Some(Weather::Hold) => {
                    // There is always another weather to come: we hold its sender ourselves.
                    drop(sky.changed().await);
                    continue;
                }
                Some(Weather::Swallow) => {
                    self.torn.store(true, Ordering::Relaxed);
                    return Ok(());
                }
            }
            return to.write_all(piece).await;
        }
    }
}

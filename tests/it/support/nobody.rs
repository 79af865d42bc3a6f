//! An address at which nobody listens, for as long as the value lives.

use std::net::SocketAddr;

use tokio::net::TcpSocket;

/// A port that is bound and does not listen: connections to it are refused, and no other process can get it. A port
/// that is closed again may belong to somebody else a moment later.
pub struct Nobody(TcpSocket);

impl Nobody {
    pub fn here() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
        Self(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }
}

#[tokio::test]
async fn a_connection_to_nobody_is_refused() {
    let nobody = Nobody::here();
    let error = tokio::net::TcpStream::connect(nobody.address()).await.expect_err("nobody listens");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

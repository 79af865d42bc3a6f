//! Asks the admin server of a running instance, with an HTTP client that knows just enough.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::{Code, Error, Result};

/// Most bytes of an answer that are read. A list of checks has a few hundred.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// What the instance is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Live,
    Ready,
}

#[derive(Debug, Serialize)]
pub struct Answer {
    pub url: String,
    pub status: u16,
    pub healthy: bool,
    /// The text of the answer: a line per check.
    pub checks: String,
    #[serde(skip)]
    question: Question,
}

/// `limit`: how long to wait. Errors: nobody answers.
pub async fn ask(target: &Target, question: Question, limit: Duration) -> Result<Answer> {
    let path = match question {
        Question::Live => "/livez?verbose",
        Question::Ready => "/readyz?verbose",
    };
    let path = format!("{}{path}", target.base);
    let url_of = |authority: &str| format!("http://{authority}{path}");
    let urls = target.authorities.iter().map(|authority| url_of(authority)).collect::<Vec<_>>().join(" or ");
    let asked = timeout(limit, ask_any(&target.authorities, &path)).await;
    let answer = asked.map_err(|_| nobody(&urls).hint(no_answer_hint(limit)))?;
    let (authority, status, checks) = answer.map_err(|error| {
        nobody(&urls).caused_by(error).hint(
            "check that it is running with admin.enabled and listens on admin.listen, or use --url for another address",
        )
    })?;
    Ok(Answer { url: url_of(&authority), status, healthy: status == 200, checks, question })
}

impl Answer {
    /// Errors: [`Code::Unhealthy`].
    pub fn verdict(&self) -> Result<()> {
        if self.healthy {
            return Ok(());
        }
        let what = match self.question {
            Question::Live => "not healthy",
            Question::Ready => "not ready",
        };
        Err(Error::new(Code::Unhealthy, format!("{} answers {}: the instance is {what}", self.url, self.status)))
    }
}

fn nobody(url: &str) -> Error {
    Error::new(Code::Unhealthy, format!("no answer from {url}"))
}

fn no_answer_hint(waited: Duration) -> String {
    format!("no answer within {waited:?}; use --timeout to wait longer")
}

/// Whom to ask.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// `host:port`, the first one that answers.
    authorities: Vec<String>,
    /// Path before `/livez`, without a final slash.
    base: String,
}

impl Target {
    pub fn from_url(url: &str) -> Result<Self> {
        let wrong = |why: &str| {
            Error::new(Code::Usage, format!("--url {why}"))
                .hint("use http://host:port; if a proxy in front terminates TLS, ask behind the proxy")
        };
        let rest = url.strip_prefix("http://").ok_or_else(|| wrong("must begin with http://"))?;
        let (authority, base) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
        if authority.is_empty() || authority.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@') {
            return Err(wrong("names no host"));
        }
        if base.contains(|c: char| c.is_whitespace() || c.is_control() || c == '?' || c == '#') {
            return Err(wrong("may have a path, and nothing after it"));
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            // In [::1] the last colon is part of the address.
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        });
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let base = base.trim_end_matches('/');
        Ok(Self {
            authorities: vec![authority],
            base: if base.is_empty() { String::new() } else { format!("/{base}") },
        })
    }

    pub fn from_listen(listen: SocketAddr) -> Result<Self> {
        if listen.port() == 0 {
            return Err(Error::new(
                Code::Usage,
                "admin.listen has port 0, so only the running instance knows the port",
            )
            .hint("its log contains the address; pass it with --url"));
        }
        // An instance that listens on every address also does so on this host's own. On every address of IPv6 means
        // those of IPv4, too, and these are all there are where the host has no IPv6.
        let ips = match listen.ip() {
            ip if !ip.is_unspecified() => vec![ip],
            IpAddr::V4(_) => vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            IpAddr::V6(_) => vec![IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)],
        };
        let authorities = ips.into_iter().map(|ip| SocketAddr::new(ip, listen.port()).to_string()).collect();
        Ok(Self { authorities, base: String::new() })
    }
}

/// Asks one after the other. Returns who answered, the status and the body; when nobody does, what the first one had to
/// say.
async fn ask_any(authorities: &[String], path: &str) -> std::io::Result<(String, u16, String)> {
    let mut first = None;
    for authority in authorities {
        match get(authority, path).await {
            Ok((status, body)) => return Ok((authority.clone(), status, body)),
            Err(error) => first = first.or(Some(error)),
        }
    }
    Err(first.unwrap_or_else(|| std::io::Error::other("there is no address to ask")))
}

/// One GET. Returns the status and the body.
async fn get(authority: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(authority).await?;
    // 1.0: the answer ends with the connection and is not chunked.
    let request = format!("GET {path} HTTP/1.0\r\nhost: {authority}\r\nuser-agent: outbox-relay\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split_whitespace().nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_host_port_and_path() {
        let target = |url| Target::from_url(url).map(|target| (target.authorities.join(","), target.base)).ok();
        let some = |authority: &str, base: &str| Some((authority.to_owned(), base.to_owned()));
        assert_eq!(target("http://relay:8080"), some("relay:8080", ""));
        assert_eq!(target("http://relay:8080/admin/"), some("relay:8080", "/admin"));
        assert_eq!(target("http://relay"), some("relay:80", ""));
        assert_eq!(target("http://[::1]"), some("[::1]:80", ""));
        assert_eq!(target("http://[::1]:9"), some("[::1]:9", ""));
        for wrong in ["https://relay", "relay:8080", "http://", "http://a\r\nb", "http://a/?q", "http://user@a"] {
            assert_eq!(target(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_instance_on_all_addresses_is_asked_on_loopback() {
        let target = |listen: &str| Target::from_listen(listen.parse().unwrap()).unwrap().authorities.join(",");
        assert_eq!(target("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(target("[::]:8080"), "[::1]:8080,127.0.0.1:8080");
        assert_eq!(target("10.1.2.3:8080"), "10.1.2.3:8080");
        assert!(Target::from_listen("127.0.0.1:0".parse().unwrap()).is_err());
    }

    /// As on a host without IPv6: what listens has an address of IPv4 alone.
    #[tokio::test]
    async fn a_listener_is_found_on_whichever_loopback_there_is() {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _bytes = stream.read(&mut request).await.unwrap();
            stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nok").await.unwrap();
        };
        let target = Target::from_listen(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).unwrap();
        let (answer, ()) = tokio::join!(ask_any(&target.authorities, "/livez"), serve);
        assert_eq!(answer.unwrap(), (format!("127.0.0.1:{port}"), 200, "ok".to_owned()));
    }

    #[test]
    fn an_answer_is_status_and_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\n[-]";
        assert_eq!(parse(answer), Some((503, "[-]".to_owned())));
        assert_eq!(parse("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }
}

//! `health`: asks the admin server of a running instance, with an HTTP client that knows just enough.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Context, Result};
use crate::cli::HealthArgs;
use crate::config::Needs;
use crate::error::{Code, Error, Result as OrError};
use crate::output;

/// Most bytes of an answer that are read. A list of checks has a few hundred.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, Serialize)]
struct Answer {
    url: String,
    status: u16,
    healthy: bool,
    /// The text of the answer: a line per check.
    checks: String,
}

pub(super) async fn run(context: &Context, args: &HealthArgs) -> Result<()> {
    let target = match &args.url {
        Some(url) => Target::from_url(url)?,
        // Without a URL only the address is needed, but settings that do not load would mislead.
        None => Target::from_listen(context.settings(Needs::NOTHING)?.admin.listen)?,
    };
    let path = format!("{}{}", target.base, if args.ready { "/readyz?verbose" } else { "/livez?verbose" });
    let url = format!("http://{}{path}", target.authority);
    let asked = timeout(args.timeout, ask(&target.authority, &path)).await;
    let answer = asked.map_err(|_| nobody(&url).hint(no_answer_hint(args.timeout)))?;
    let (status, body) = answer.map_err(|error| {
        nobody(&url)
            .caused_by(error)
            .hint("is it running, with admin.enabled, and is this its admin.listen? --url asks another address")
    })?;

    let answer = Answer { healthy: status == 200, url, status, checks: body };
    output::one(context.format(), &answer, || match answer.checks.trim_end() {
        "" => format!("{}\n", answer.status),
        checks => format!("{}\n", checks.lines().map(output::printable).collect::<Vec<_>>().join("\n")),
    })?;
    if answer.healthy {
        return Ok(());
    }
    let what = if args.ready { "not ready" } else { "not healthy" };
    Err(Error::new(Code::Unhealthy, format!("{} answers {}: the instance is {what}", answer.url, answer.status)).into())
}

fn nobody(url: &str) -> Error {
    Error::new(Code::Unhealthy, format!("no answer from {url}"))
}

fn no_answer_hint(waited: Duration) -> String {
    format!("nothing came within {waited:?}; --timeout waits longer")
}

/// Whom to ask.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    /// `host:port`.
    authority: String,
    /// Path before `/livez`, without a final slash.
    base: String,
}

impl Target {
    fn from_url(url: &str) -> OrError<Self> {
        let wrong = |why: &str| {
            Error::new(Code::Usage, format!("--url {why}"))
                .hint("the form is http://host:port; TLS is for a proxy in front, ask behind it")
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
        Ok(Self { authority, base: if base.is_empty() { String::new() } else { format!("/{base}") } })
    }

    fn from_listen(listen: SocketAddr) -> OrError<Self> {
        if listen.port() == 0 {
            return Err(Error::new(
                Code::Usage,
                "admin.listen has port 0, so the port is known to the running instance only",
            )
            .hint("its log names the address; ask it with --url"));
        }
        // An instance that listens on every address also does so on this host's own.
        let ip = match listen.ip() {
            ip if !ip.is_unspecified() => ip,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        Ok(Self { authority: SocketAddr::new(ip, listen.port()).to_string(), base: String::new() })
    }
}

/// One GET. Returns the status and the body.
async fn ask(authority: &str, path: &str) -> std::io::Result<(u16, String)> {
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
        let target = |url| Target::from_url(url).map(|target| (target.authority, target.base)).ok();
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
        let target = |listen: &str| Target::from_listen(listen.parse().unwrap()).unwrap().authority;
        assert_eq!(target("0.0.0.0:8080"), "127.0.0.1:8080");
        assert_eq!(target("[::]:8080"), "[::1]:8080");
        assert_eq!(target("10.1.2.3:8080"), "10.1.2.3:8080");
        assert!(Target::from_listen("127.0.0.1:0".parse().unwrap()).is_err());
    }

    #[test]
    fn an_answer_is_status_and_body() {
        let answer = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 3\r\n\r\n[-]";
        assert_eq!(parse(answer), Some((503, "[-]".to_owned())));
        assert_eq!(parse("SSH-2.0-OpenSSH\r\n\r\n"), None);
        assert_eq!(parse(""), None);
    }
}

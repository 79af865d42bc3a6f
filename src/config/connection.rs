//! Parses `database.url`, in both forms that PostgreSQL's own clients accept: a URI and `name=value` pairs.
//!
//! Invariants: each parameter takes effect or is rejected by name (`parameters.rs`); no error produced here quotes a
//! value, and none quotes anything that may be part of a password (`text.rs`).

mod parameters;
mod text;

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use super::{DatabaseConfig, TlsMode};
use crate::secret::Secret;

/// Why a connection string cannot be used. Holds no value of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub why: String,
    pub help: String,
}

impl Refused {
    fn new(why: impl Into<String>, help: impl Into<String>) -> Self {
        Self { why: why.into(), help: help.into() }
    }
}

/// Where a connection may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The folder of a Unix socket.
    Socket(String),
    /// A name to look up, which the certificate must carry.
    Name(String),
    /// An address (`hostaddr`), and the name that the certificate must carry, if one was given.
    Address(IpAddr, Option<String>),
}

impl Place {
    /// Whether nobody else can be on the way, as far as the string tells. A name is looked up before a connection is
    /// made.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Socket(_) => true,
            Self::Name(name) => is_localhost(name),
            Self::Address(address, _) => address.to_canonical().is_loopback(),
        }
    }
}

/// Whether a name is that of this host, or an address of it. Any other name that leads here today may lead elsewhere
/// tomorrow.
pub fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub place: Place,
    pub port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Socket(path) => write!(f, "{path}:{}", self.port),
            Place::Name(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Place::Name(name) => write!(f, "{name}:{}", self.port),
            Place::Address(IpAddr::V6(address), _) => write!(f, "[{address}]:{}", self.port),
            Place::Address(IpAddr::V4(address), _) => write!(f, "{address}:{}", self.port),
        }
    }
}

/// Bytes that do not print.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// For the client library, never for printing.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Which sessions will do (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SessionKind {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
}

/// Whether SCRAM is bound to the TLS connection (`channel_binding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ChannelBinding {
    Disable,
    #[default]
    Prefer,
    Require,
}

/// Probes on an idle connection. `None`: what outbox-relay sets by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalives {
    pub off: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub count: Option<u32>,
    pub user_timeout: Option<Duration>,
}

/// A connection string that was understood, every parameter of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConnectionString {
    /// At least one, to be tried in this order, or in any if `shuffled`.
    pub hosts: Vec<Host>,
    pub shuffled: bool,
    /// Not for printing either: a URL whose password stands alone has it here.
    pub user: Option<Secret>,
    pub password: Option<Password>,
    pub dbname: Option<String>,
    /// Command line options for the session; nothing in it is a setting that outbox-relay relies on.
    pub options: Option<String>,
    /// The least that is asked for; never `auto`.
    pub sslmode: Option<TlsMode>,
    /// TLS without asking the server first (`sslnegotiation=direct`).
    pub direct_tls: bool,
    /// Nothing older than TLS 1.3.
    pub tls13_only: bool,
    pub channel_binding: ChannelBinding,
    pub session: SessionKind,
    pub keepalives: Keepalives,
}

impl ConnectionString {
    pub fn parse(text: &str) -> Result<Self, Refused> {
        let pairs = text::pairs(text)?;
        let target = parameters::apply(pairs)?;
        Ok(target)
    }

    /// How the connection to a host is protected: what `database.tls` says, and never less than the string asks for.
    /// `local`: nobody else is on the way.
    pub fn tls(&self, setting: TlsMode, local: bool) -> TlsMode {
        let base = match (setting, local) {
            (TlsMode::Auto, true) => TlsMode::Disable,
            (TlsMode::Auto, false) => TlsMode::VerifyFull,
            (
                TlsMode::Disable | TlsMode::Prefer | TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull,
                true | false,
            ) => setting,
        };
        self.sslmode.filter(|asked| strength(*asked) > strength(base)).unwrap_or(base)
    }

    /// What the string and the settings contradict each other about.
    pub fn check(&self, settings: &DatabaseConfig) -> Result<(), Refused> {
        let setting = settings.tls;
        if let Some(asked) = self.sslmode {
            let (word, given) = (asked.as_str(), setting.as_str());
            if setting != TlsMode::Auto && strength(asked) > strength(setting) {
                return Err(Refused::new(
                    format!("`sslmode={word}` asks for more than `database.tls` = `{given}`"),
                    format!("set `database.tls` to `{word}`, or remove sslmode from the URL"),
                ));
            }
            let all_local = self.hosts.iter().all(|host| host.place.is_local());
            let plain = setting == TlsMode::Disable || (setting == TlsMode::Auto && all_local);
            if asked == TlsMode::Disable && !plain {
                return Err(Refused::new(
                    format!("`sslmode=disable` contradicts `database.tls` = `{given}`, which encrypts the connection"),
                    "set `database.tls` to `disable` if anyone on the network may read the traffic, or remove sslmode from the URL",
                ));
            }
        }
        for host in &self.hosts {
            let mode = self.tls(setting, host.place.is_local());
            if matches!(host.place, Place::Socket(_)) && strength(mode) >= strength(TlsMode::Require) {
                return Err(Refused::new(
                    format!("a Unix socket cannot be encrypted, but TLS is requested (`{}`)", mode.as_str()),
                    "connect to a host, or set `database.tls` to `auto` and remove sslmode from the URL",
                ));
            }
            if self.direct_tls && strength(mode) < strength(TlsMode::Require) {
                return Err(Refused::new(
                    "`sslnegotiation=direct` requires TLS, which is not enforced here",
                    "set `database.tls` to `require`, `verify-ca` or `verify-full`",
                ));
            }
        }
        Ok(())
    }

    /// Hosts, and the database if it is named, for messages.
    pub fn describe(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        let hosts = hosts.join(",");
        self.dbname.as_ref().map_or_else(|| hosts.clone(), |database| format!("{hosts}/{database}"))
    }
}

/// How much a mode promises. `auto` is decided before it is compared.
fn strength(mode: TlsMode) -> u8 {
    match mode {
        TlsMode::Auto | TlsMode::Disable => 0,
        TlsMode::Prefer => 1,
        TlsMode::Require => 2,
        TlsMode::VerifyCa => 3,
        TlsMode::VerifyFull => 4,
    }
}

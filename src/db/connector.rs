//! Opens connections. The server, the protection and the password are determined anew for each one.
//!
//! Invariants: TLS depends on the address that a connection really goes to, never on the name alone; a password, URL or
//! certificate that was replaced in its file is used from the next connection on, without a restart.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_postgres::config::{SslMode, SslNegotiation, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use super::DbError;
use super::deadline::{Call, NoAnswer};
use super::tls::Tls;
use crate::config::connection::{ChannelBinding, ConnectionString, Host, Place, SessionKind, is_localhost};
use crate::config::secret_file::{self, Stamp};
use crate::config::{DatabaseConfig, TlsMode};
use crate::error::{Code, Error};
use crate::secret::Secret;

type Postgres = tokio_postgres::Error;

/// A session, and the work that has to be driven for as long as it is used.
type Opened = (Client, BoxFuture<'static, Result<(), Postgres>>);

/// Cheap to clone; opens nothing by itself.
#[derive(Clone)]
pub(super) struct Connector {
    shared: Arc<Shared>,
}

struct Shared {
    settings: DatabaseConfig,
    tls: Tls,
    current: RwLock<Arc<ConnectionString>>,
    source: Mutex<Source>,
}

/// The connection string as it was last read.
struct Source {
    secret: Secret,
    stamp: Stamp,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("to", &self.describe()).finish_non_exhaustive()
    }
}

impl Connector {
    /// Errors: [`Code::ConfigInvalid`] for a URL or a certificate file that cannot be used.
    pub(super) fn new(settings: &DatabaseConfig) -> Result<Self, Error> {
        let target = understood(&settings.url, settings)?;
        let tls = Tls::new(settings);
        for host in &target.hosts {
            let mode = target.tls(settings.tls, host.place.is_local());
            if mode != TlsMode::Disable {
                tls.client(mode, &target)?;
            }
        }
        let stamp = settings.url.file().map(Stamp::of).unwrap_or_default();
        let shared = Shared {
            tls,
            current: RwLock::new(Arc::new(target)),
            source: Mutex::new(Source { secret: settings.url.clone(), stamp }),
            settings: settings.clone(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Hosts and database, for messages. Never the password.
    pub(super) fn describe(&self) -> String {
        self.target().describe()
    }

    /// A session with the name and the options of `session`. Tries one address after the other, each for `limit`:
    /// looking up its name, TCP, TLS and authentication together. Errors: that of the last one.
    pub(super) async fn open(&self, session: &Config, limit: Duration) -> Result<Opened, DbError> {
        self.read_if_changed(false);
        let target = self.target();
        let opened = self.try_hosts(&target, session, limit).await;
        match opened {
            // Between a change of the password in the server and in the file nothing else can be done than to look
            // again.
            Err(error) if is_refused(&error) => {
                self.read_if_changed(true);
                let fresh = self.target();
                if fresh == target { Err(error) } else { self.try_hosts(&fresh, session, limit).await }
            }
            opened => opened,
        }
    }

    fn target(&self) -> Arc<ConnectionString> {
        Arc::clone(&self.shared.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.shared.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file of the URL again, if there is one and it was changed or `surely`. What cannot be used changes
    /// nothing.
    fn read_if_changed(&self, surely: bool) {
        let mut source = self.source();
        let Some(file) = source.secret.file().map(ToOwned::to_owned) else { return };
        let stamp = Stamp::of(&file);
        if stamp == source.stamp && !surely {
            return;
        }
        source.stamp = stamp;
        let read = secret_file::read(&file).map_err(|why| Error::new(Code::ConfigInvalid, why));
        match read.and_then(|secret| Ok((understood(&secret, &self.shared.settings)?, secret))) {
            Ok((target, secret)) => {
                if secret != source.secret {
                    tracing::info!("database.url_file changed; new connections will use it");
                }
                source.secret = secret;
                *self.shared.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(target);
            }
            Err(error) => tracing::warn!(
                error = %error.chain(),
                "database.url_file changed but cannot be used; new connections use its previous content"
            ),
        }
    }

    async fn try_hosts(&self, target: &ConnectionString, session: &Config, limit: Duration) -> Result<Opened, DbError> {
        let mut hosts: Vec<&Host> = target.hosts.iter().collect();
        if target.shuffled {
            fastrand::shuffle(&mut hosts);
        }
        let mut last = None;
        for host in hosts {
            match self.try_host(target, host, self.config(target, session, limit), limit).await {
                Ok(opened) => return Ok(opened),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("a connection string names at least one host"))
    }

    async fn try_host(
        &self,
        target: &ConnectionString,
        host: &Host,
        mut config: Config,
        limit: Duration,
    ) -> Result<Opened, DbError> {
        config.port(host.port);
        match &host.place {
            Place::Socket(path) => {
                config.host_path(path);
                self.try_once(target, config, true, limit).await
            }
            Place::Address(address, name) => {
                config.host(name.clone().unwrap_or_else(|| address.to_string())).hostaddr(*address);
                self.try_once(target, config, is_loopback(*address), limit).await
            }
            Place::Name(name) => {
                config.host(name);
                let mut addresses = look_up(name, host.port, limit).await?;
                if target.shuffled {
                    fastrand::shuffle(&mut addresses);
                }
                let mut last = None;
                for address in addresses {
                    let mut config = config.clone();
                    config.hostaddr(address);
                    let local = is_localhost(name) && is_loopback(address);
                    match self.try_once(target, config, local, limit).await {
                        Ok(opened) => return Ok(opened),
                        Err(error) => last = Some(error),
                    }
                }
                Err(last.expect("there is an address"))
            }
        }
    }

    /// One address. The `connect_timeout` of the driver ends with the TCP handshake, which a frozen server still
    /// answers.
    async fn try_once(
        &self,
        target: &ConnectionString,
        mut config: Config,
        local: bool,
        limit: Duration,
    ) -> Result<Opened, DbError> {
        let mode = target.tls(self.shared.settings.tls, local);
        config.ssl_mode(match mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Auto | TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        let client = match mode {
            TlsMode::Disable => None,
            TlsMode::Auto | TlsMode::Prefer | TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => {
                match self.shared.tls.client(mode, target) {
                    Ok(client) => Some(client),
                    Err(error) => {
                        tracing::warn!(error = %error.chain(), "could not set up TLS to PostgreSQL");
                        // Fails where TLS is needed, by the word of the client that there is none.
                        None
                    }
                }
            }
        };
        let connecting = async {
            Ok::<Opened, Postgres>(match client {
                Some(client) => {
                    let (client, connection) = config.connect(client).await?;
                    (client, connection.boxed())
                }
                None => {
                    let (client, connection) = config.connect(NoTls).await?;
                    (client, connection.boxed())
                }
            })
        };
        match timeout(limit, Box::pin(connecting)).await {
            Ok(connected) => Ok(connected?),
            Err(_) => Err(NoAnswer::new(Call::Connect, limit).into()),
        }
    }

    fn config(&self, target: &ConnectionString, session: &Config, limit: Duration) -> Config {
        let mut config = Config::new();
        if let Some(user) = &target.user {
            config.user(user.expose());
        }
        if let Some(password) = &target.password {
            config.password(password.expose());
        }
        if let Some(dbname) = &target.dbname {
            config.dbname(dbname);
        }
        // The last occurrence of an option wins, so ours come last.
        let options = [target.options.as_deref(), session.get_options()];
        config.options(options.into_iter().flatten().collect::<Vec<_>>().join(" "));
        config.application_name(session.get_application_name().unwrap_or("outbox-relay"));
        config.ssl_negotiation(if target.direct_tls { SslNegotiation::Direct } else { SslNegotiation::Postgres });
        config.channel_binding(match target.channel_binding {
            ChannelBinding::Disable => tokio_postgres::config::ChannelBinding::Disable,
            ChannelBinding::Prefer => tokio_postgres::config::ChannelBinding::Prefer,
            ChannelBinding::Require => tokio_postgres::config::ChannelBinding::Require,
        });
        config.target_session_attrs(match target.session {
            SessionKind::Any => TargetSessionAttrs::Any,
            SessionKind::ReadWrite => TargetSessionAttrs::ReadWrite,
            SessionKind::ReadOnly => TargetSessionAttrs::ReadOnly,
        });
        let probes = target.keepalives;
        config
            .connect_timeout(limit)
            .keepalives(!probes.off)
            .keepalives_idle(probes.idle.unwrap_or(Duration::from_secs(10)))
            .keepalives_interval(probes.interval.unwrap_or(Duration::from_secs(3)))
            .keepalives_retries(probes.count.unwrap_or(3))
            .tcp_user_timeout(probes.user_timeout.unwrap_or(Duration::from_secs(10)));
        config
    }
}

fn understood(url: &Secret, settings: &DatabaseConfig) -> Result<ConnectionString, Error> {
    let target = ConnectionString::parse(url.expose());
    target.and_then(|target| target.check(settings).map(|()| target)).map_err(|refused| {
        Error::new(Code::ConfigInvalid, format!("database.url cannot be used: {}", refused.why)).hint(refused.help)
    })
}

/// Whether the server knows another password, or another user. Classes 28 and, for a database of another name, 3D.
fn is_refused(error: &DbError) -> bool {
    let codes =
        [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION, SqlState::INVALID_CATALOG_NAME];
    error.sqlstate().is_some_and(|code| codes.contains(code))
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// The addresses of a name, at least one.
async fn look_up(name: &str, port: u16, limit: Duration) -> Result<Vec<IpAddr>, DbError> {
    let found = match timeout(limit, lookup_host((name, port))).await {
        Ok(found) => found.map_err(|error| DbError::Unavailable(error.into()))?,
        Err(_) => return Err(NoAnswer::new(Call::Resolve, limit).into()),
    };
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    match addresses.is_empty() {
        true => Err(DbError::Unavailable("the name of the PostgreSQL host has no address".into())),
        false => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_next_host_is_tried_when_one_accepts_and_never_answers() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let ports = [silent.local_addr().expect("bound").port(), closed.local_addr().expect("bound").port()];
        drop(closed);
        let url = format!("user=u host=127.0.0.1,127.0.0.1 port={},{}", ports[0], ports[1]);
        let settings = DatabaseConfig { url: Secret::new(url), ..DatabaseConfig::default() };
        let connector = Connector::new(&settings).expect("settings");
        let error = connector.open(&Config::new(), Duration::from_millis(200)).await.err().expect("nobody answers");
        assert!(error.chain().contains("refused"), "the error is that of the second host: {}", error.chain());
        drop(silent);
    }
}

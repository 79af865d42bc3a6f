//! Connecting to the hosts of a URL in turn, each address within the limit. `connect_timeout` of the driver ends with the TCP handshake,
//! which a frozen server still answers: what hangs then is TLS or authentication.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::DbError;
use super::deadline::{Call, NoAnswer};

type Connected = (Client, Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>);

/// Tries one address after the other. Errors: that of the last one.
pub(super) async fn connect(config: &Config, tls: &MakeRustlsConnect, limit: Duration) -> Result<Connected, DbError> {
    let mut failed = None;
    for target in targets(config) {
        let addresses = match target.addresses(limit).await {
            Ok(addresses) => addresses,
            Err(error) => {
                failed = Some(error);
                continue;
            }
        };
        for address in addresses {
            match attempt(&target.config(config, address), tls, limit).await {
                Ok(connected) => return Ok(connected),
                Err(error) => failed = Some(error),
            }
        }
    }
    match failed {
        Some(error) => Err(error),
        // The settings name no host, or not as many ports: the driver says which.
        None => attempt(config, tls, limit).await,
    }
}

async fn attempt(config: &Config, tls: &MakeRustlsConnect, limit: Duration) -> Result<Connected, DbError> {
    match timeout(limit, config.connect(tls.clone())).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(NoAnswer::new(Call::Connect, limit).into()),
    }
}

/// One entry of the list of hosts.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    host: Option<Host>,
    address: Option<IpAddr>,
    port: u16,
}

/// The hosts in the order in which they are to be tried. Empty when the driver would refuse the list.
fn targets(config: &Config) -> Vec<Target> {
    let (hosts, addresses, ports) = (config.get_hosts(), config.get_hostaddrs(), config.get_ports());
    let count = hosts.len().max(addresses.len());
    let fits = |length: usize| length == 0 || length == count;
    if !fits(hosts.len()) || !fits(addresses.len()) || !(ports.len() <= 1 || ports.len() == count) {
        return Vec::new();
    }
    let mut targets: Vec<_> = (0..count)
        .map(|n| Target {
            host: hosts.get(n).cloned(),
            address: addresses.get(n).copied(),
            port: ports.get(n).or(ports.first()).copied().unwrap_or(5432),
        })
        .collect();
    if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
        fastrand::shuffle(&mut targets);
    }
    targets
}

impl Target {
    /// The addresses of its name; `None` for one that has none, which is the path of a socket.
    async fn addresses(&self, limit: Duration) -> Result<Vec<Option<IpAddr>>, DbError> {
        let Some(Host::Tcp(name)) = self.host.as_ref().filter(|_| self.address.is_none()) else {
            return Ok(vec![self.address]);
        };
        match timeout(limit, lookup_host((name.as_str(), self.port))).await {
            Ok(Ok(found)) => Ok(found.map(|address| Some(address.ip())).collect()),
            Ok(Err(error)) => Err(DbError::Unavailable(error.into())),
            Err(_) => Err(NoAnswer::new(Call::Resolve, limit).into()),
        }
    }

    /// The settings of `all` for this target alone.
    fn config(&self, all: &Config, address: Option<IpAddr>) -> Config {
        let mut single = Config::new();
        match &self.host {
            Some(Host::Tcp(name)) => drop(single.host(name.as_str())),
            Some(Host::Unix(path)) => drop(single.host_path(path)),
            None => {}
        }
        if let Some(address) = address {
            single.hostaddr(address);
        }
        single.port(self.port).ssl_mode(all.get_ssl_mode()).ssl_negotiation(all.get_ssl_negotiation());
        single.target_session_attrs(all.get_target_session_attrs()).channel_binding(all.get_channel_binding());
        single.keepalives(all.get_keepalives()).keepalives_idle(all.get_keepalives_idle());
        if let Some(user) = all.get_user() {
            single.user(user);
        }
        if let Some(password) = all.get_password() {
            single.password(password);
        }
        if let Some(name) = all.get_dbname() {
            single.dbname(name);
        }
        if let Some(options) = all.get_options() {
            single.options(options);
        }
        if let Some(name) = all.get_application_name() {
            single.application_name(name);
        }
        if let Some(limit) = all.get_connect_timeout() {
            single.connect_timeout(*limit);
        }
        if let Some(limit) = all.get_tcp_user_timeout() {
            single.tcp_user_timeout(*limit);
        }
        if let Some(interval) = all.get_keepalives_interval() {
            single.keepalives_interval(interval);
        }
        if let Some(retries) = all.get_keepalives_retries() {
            single.keepalives_retries(retries);
        }
        single
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: &str = "user=u password=p dbname=d options=-cgeqo=off application_name=a sslmode=require sslnegotiation=direct \
        connect_timeout=3 tcp_user_timeout=4 keepalives=1 keepalives_idle=5 keepalives_interval=6 keepalives_retries=7 \
        target_session_attrs=read-write channel_binding=disable";

    fn parse(hosts: &str) -> Config {
        format!("{SETTINGS} {hosts}").parse().expect("settings of the driver")
    }

    #[test]
    fn the_settings_for_one_host_keep_every_other_setting() {
        let all = parse("host=a,b hostaddr=127.0.0.1,127.0.0.2 port=1,2");
        let targets = targets(&all);
        assert_eq!(targets.len(), 2);
        assert_eq!(targets[1].config(&all, targets[1].address), parse("host=b hostaddr=127.0.0.2 port=2"));
        let socket = parse("host=/run/postgresql port=5");
        assert_eq!(super::targets(&socket)[0].config(&socket, None), socket);
    }

    #[test]
    fn a_list_that_the_driver_refuses_is_left_to_it() {
        assert!(targets(&parse("host=a,b port=1,2,3")).is_empty());
        assert!(targets(&parse("host=a,b hostaddr=127.0.0.1")).is_empty());
        assert!(targets(&parse("")).is_empty());
    }

    #[tokio::test]
    async fn the_next_host_is_tried_when_one_accepts_and_never_answers() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let ports = [silent.local_addr().expect("bound").port(), closed.local_addr().expect("bound").port()];
        drop(closed);
        let config: Config =
            format!("user=u host=127.0.0.1,127.0.0.1 port={},{}", ports[0], ports[1]).parse().expect("settings");
        let roots = rustls::RootCertStore::empty();
        let provider = rustls::crypto::ring::default_provider();
        let client = rustls::ClientConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tls = MakeRustlsConnect::new(client);
        let error = connect(&config, &tls, Duration::from_millis(200)).await.err().expect("nobody answers");
        assert!(error.chain().contains("refused"), "the error is that of the second host: {}", error.chain());
        drop(silent);
    }
}

//! What happens to each parameter of a connection string: it takes effect, it states what applies anyway, or it is
//! rejected with the setting to use instead. The names are those of libpq up to PostgreSQL 18.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::text::Pair;
use super::{ChannelBinding, ConnectionString, Host, Password, Place, Refused, SessionKind};
use crate::config::TlsMode;
use crate::config::suggest;
use crate::secret::Secret;

/// Parameters that are understood.
const UNDERSTOOD: [&str; 33] = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "options",
    "sslmode",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "channel_binding",
    "target_session_attrs",
    "load_balance_hosts",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "keepalives_retries",
    "tcp_user_timeout",
    "client_encoding",
    "fallback_application_name",
    "gssencmode",
    "gssdelegation",
    "sslcompression",
    "sslcertmode",
    "sslsni",
    "sslcrl",
    "sslcrldir",
    "replication",
    "requiressl",
    "min_protocol_version",
    "max_protocol_version",
];

/// Parameters that never take effect: name, why, and what to do instead.
const REFUSED: [(&str, &str, &str); 23] = [
    ("connect_timeout", "it has its own setting", "use `database.connect_timeout`"),
    (
        "application_name",
        "outbox-relay uses it to tell its own sessions apart",
        "remove it; sessions are called `outbox-relay ...`",
    ),
    ("sslrootcert", "it has its own setting", "use `database.ca_file`"),
    ("sslcert", "it has its own setting", "use `database.cert_file`"),
    ("sslkey", "it has its own setting", "use `database.key_file`"),
    ("sslpassword", "keys with a passphrase are not supported", "use `database.key_file` with a key that has none"),
    ("sslkeylogfile", "it would reveal the keys of the connection", "remove it"),
    ("passfile", "libpq password files are not read", "put the whole URL into a file and use `database.url_file`"),
    ("service", "libpq service files are not read", "write the parameters of the service into `database.url`"),
    ("servicefile", "libpq service files are not read", "write the parameters of the service into `database.url`"),
    (
        "requirepeer",
        "the owner of the server process is not checked",
        "protect the folder of the socket instead, and remove it",
    ),
    (
        "require_auth",
        "authentication methods cannot be chosen",
        "use `channel_binding=require`, which only SCRAM over TLS can do",
    ),
    ("krbsrvname", "GSSAPI is not supported", "use a password or a client certificate"),
    ("gsslib", "GSSAPI is not supported", "use a password or a client certificate"),
    ("scram_client_key", "SCRAM keys cannot replace the password", "use the password"),
    ("scram_server_key", "SCRAM keys cannot replace the password", "use the password"),
    ("oauth_issuer", "OAuth is not supported", "use a password or a client certificate"),
    ("oauth_client_id", "OAuth is not supported", "use a password or a client certificate"),
    ("oauth_client_secret", "OAuth is not supported", "use a password or a client certificate"),
    ("oauth_scope", "OAuth is not supported", "use a password or a client certificate"),
    ("authtype", "PostgreSQL dropped it long ago", "remove it"),
    ("tty", "PostgreSQL dropped it long ago", "remove it"),
    ("schema", "PostgreSQL knows no such parameter", "use `outbox.schema`"),
];

/// Settings of the session that outbox-relay sets itself because its statements rely on them, and where to set them
/// instead.
const SESSION: [(&str, &str); 42] = [
    ("search_path", "use `outbox.schema`"),
    ("statement_timeout", "use `database.statement_timeout`"),
    ("application_name", FIXED),
    ("backslash_quote", FIXED),
    ("bytea_output", FIXED),
    ("client_encoding", FIXED),
    ("datestyle", FIXED),
    ("default_transaction_deferrable", FIXED),
    ("default_transaction_isolation", FIXED),
    ("default_transaction_read_only", FIXED),
    ("default_toast_compression", FIXED),
    ("enable_bitmapscan", FIXED),
    ("enable_hashjoin", FIXED),
    ("enable_indexscan", FIXED),
    ("enable_indexonlyscan", FIXED),
    ("enable_mergejoin", FIXED),
    ("enable_nestloop", FIXED),
    ("enable_seqscan", FIXED),
    ("enable_sort", FIXED),
    ("escape_string_warning", FIXED),
    ("extra_float_digits", FIXED),
    ("idle_in_transaction_session_timeout", FIXED),
    ("idle_session_timeout", FIXED),
    ("intervalstyle", FIXED),
    ("jit", FIXED),
    ("lc_messages", FIXED),
    ("lc_monetary", FIXED),
    ("lc_numeric", FIXED),
    ("lc_time", FIXED),
    ("lock_timeout", FIXED),
    ("plan_cache_mode", FIXED),
    ("quote_all_identifiers", FIXED),
    ("random_page_cost", FIXED),
    ("row_security", FIXED),
    ("session_authorization", FIXED),
    ("session_replication_role", FIXED),
    ("standard_conforming_strings", FIXED),
    ("synchronous_commit", FIXED),
    ("timezone", FIXED),
    ("transaction_timeout", FIXED),
    ("transform_null_equals", FIXED),
    ("xmloption", FIXED),
];

const FIXED: &str = "remove it: outbox-relay sets it in each session";

/// Whether text can be the name, the address or the socket folder of a server.
pub(super) fn is_host(text: &str) -> bool {
    text.starts_with('/') || text.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'))
}

pub(super) fn apply(pairs: Vec<Pair>) -> Result<ConnectionString, Refused> {
    let mut target = ConnectionString::default();
    let (mut hosts, mut addresses, mut ports) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for pair in pairs {
        let Pair { name, value, showable } = pair;
        if let Some((name, why, help)) = REFUSED.iter().find(|(refused, ..)| *refused == name) {
            return Err(Refused::new(format!("`{name}` cannot be used in it: {why}"), *help));
        }
        if !UNDERSTOOD.contains(&name.as_str()) {
            return Err(unknown(&name, showable));
        }
        if value.contains(&0) {
            return Err(Refused::new(format!("`{name}` has a NUL character in it"), "PostgreSQL accepts none"));
        }
        if !seen.insert(name.clone()) {
            return Err(Refused::new(
                format!("`{name}` is given twice"),
                "only one of the two can apply: remove the other",
            ));
        }
        if name == "password" {
            target.password = Some(Password(value)).filter(|password| !password.0.is_empty());
            continue;
        }
        let text = String::from_utf8(value)
            .map_err(|_| Refused::new(format!("`{name}` is not UTF-8"), "percent-encode it as UTF-8"))?;
        match name.as_str() {
            "host" => hosts = list(&text),
            "hostaddr" => addresses = list(&text),
            "port" => ports = list(&text),
            _ => one(&mut target, &name, text)?,
        }
    }
    target.hosts = servers(&hosts, &addresses, &ports)?;
    Ok(target)
}

fn unknown(name: &str, showable: bool) -> Refused {
    let known = UNDERSTOOD.into_iter().chain(REFUSED.iter().map(|(name, ..)| *name));
    let help = match suggest::closest(name, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            "parameters of other drivers are not supported; a password with special characters must be encoded or quoted"
                .to_owned()
        }
    };
    let is_word = name.len() <= 40 && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    match showable && is_word {
        true => Refused::new(format!("it has the unknown parameter `{name}`"), help),
        false => Refused::new("it has an unknown parameter", help),
    }
}

fn list(text: &str) -> Vec<String> {
    if text.is_empty() { Vec::new() } else { text.split(',').map(|item| item.trim().to_owned()).collect() }
}

/// A parameter that concerns no single host.
fn one(target: &mut ConnectionString, name: &str, text: String) -> Result<(), Refused> {
    let not = |expected: &str| {
        let help = format!("write `{name}` as {expected}, or remove it");
        Err(Refused::new(format!("`{name}` has a value that cannot be used here"), help))
    };
    match (name, text.as_str()) {
        ("user", _) => target.user = Some(Secret::new(text)),
        ("dbname", _) => target.dbname = Some(text),
        ("options", _) => target.options = options(text)?,
        ("sslmode", "disable") => target.sslmode = Some(TlsMode::Disable),
        ("sslmode", "prefer") => target.sslmode = Some(TlsMode::Prefer),
        ("sslmode", "require") => target.sslmode = Some(TlsMode::Require),
        ("sslmode", "verify-ca") => target.sslmode = Some(TlsMode::VerifyCa),
        ("sslmode", "verify-full") => target.sslmode = Some(TlsMode::VerifyFull),
        ("sslmode", _) => {
            return not("`disable`, `prefer`, `require`, `verify-ca` or `verify-full`, or set `database.tls` instead");
        }
        ("sslnegotiation", "postgres") => {}
        ("sslnegotiation", "direct") => target.direct_tls = true,
        ("sslnegotiation", _) => return not("`postgres` or `direct`"),
        ("ssl_min_protocol_version", "" | "TLSv1" | "TLSv1.1" | "TLSv1.2") => {}
        ("ssl_min_protocol_version", "TLSv1.3") => target.tls13_only = true,
        ("ssl_min_protocol_version", _) => return not("`TLSv1.2` or `TLSv1.3`"),
        ("ssl_max_protocol_version", "" | "TLSv1.3") => {}
        ("ssl_max_protocol_version", _) => return not("`TLSv1.3`"),
        ("channel_binding", "disable") => target.channel_binding = ChannelBinding::Disable,
        ("channel_binding", "prefer") => target.channel_binding = ChannelBinding::Prefer,
        ("channel_binding", "require") => target.channel_binding = ChannelBinding::Require,
        ("channel_binding", _) => return not("`disable`, `prefer` or `require`"),
        ("target_session_attrs", "any") => target.session = SessionKind::Any,
        ("target_session_attrs", "read-write" | "primary") => target.session = SessionKind::ReadWrite,
        ("target_session_attrs", "read-only") => target.session = SessionKind::ReadOnly,
        ("target_session_attrs", _) => return not("`any`, `read-write` or `read-only`"),
        ("load_balance_hosts", "disable") => target.shuffled = false,
        ("load_balance_hosts", "random") => target.shuffled = true,
        ("load_balance_hosts", _) => return not("`disable` or `random`"),
        ("keepalives", "0") => target.keepalives.off = true,
        ("keepalives", "1") => target.keepalives.off = false,
        ("keepalives", _) => return not("0 or 1"),
        (
            "keepalives_idle" | "keepalives_interval" | "tcp_user_timeout" | "keepalives_count" | "keepalives_retries",
            _,
        ) => {
            let Ok(number) = text.parse::<u32>() else { return not("a whole number") };
            probes(target, name, number);
        }
        ("client_encoding", text)
            if ["utf8", "utf-8", "unicode", "auto"].contains(&text.to_ascii_lowercase().as_str()) => {}
        ("client_encoding", _) => return not("`UTF8`, the only encoding that is spoken here"),
        // Only counts for a program without a name of its own.
        ("fallback_application_name", _) => {}
        ("gssencmode", "disable" | "prefer") | ("gssdelegation" | "sslcompression" | "requiressl", "0") => {}
        ("gssencmode", _) => return not("`disable`: GSSAPI is not supported"),
        ("gssdelegation", _) => return not("0: GSSAPI is not supported"),
        ("sslcompression", _) => return not("0: TLS is never compressed"),
        ("requiressl", _) => return not("`sslmode=require`, or set `database.tls` instead"),
        ("sslcertmode", "allow" | "disable") | ("sslsni", "1") | ("sslcrl" | "sslcrldir", "") => {}
        ("sslcertmode", _) => return not("`allow`: whether the server asks for a certificate is up to the server"),
        ("sslsni", _) => return not("1: the name of the server is always sent"),
        ("sslcrl" | "sslcrldir", _) => return not("nothing: lists of revoked certificates are not supported"),
        ("replication", "false" | "off" | "no" | "0") => {}
        ("replication", _) => return not("`false`: outbox-relay reads tables"),
        ("min_protocol_version", "3.0") | ("max_protocol_version", "3.0" | "3.2" | "latest") => {}
        ("min_protocol_version" | "max_protocol_version", _) => return not("3.0, the version that is spoken here"),
        (_, _) => unreachable!("every name that is understood has an arm"),
    }
    Ok(())
}

fn probes(target: &mut ConnectionString, name: &str, number: u32) {
    let keepalives = &mut target.keepalives;
    // 0 is the default of the system in libpq, and ours here.
    let some = (number > 0).then_some(number);
    match name {
        "keepalives_idle" => keepalives.idle = some.map(|n| Duration::from_secs(n.into())),
        "keepalives_interval" => keepalives.interval = some.map(|n| Duration::from_secs(n.into())),
        // The one that is given in milliseconds.
        "tcp_user_timeout" => keepalives.user_timeout = some.map(|n| Duration::from_millis(n.into())),
        _ => keepalives.count = some,
    }
}

/// Options of the server's command line, without those that would be overruled or break what statements rely on.
fn options(text: String) -> Result<Option<String>, Refused> {
    let mut names = Vec::new();
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().unwrap_or_default(),
            Some(setting) => setting,
            None => continue,
        };
        names.push(setting.split_once('=').map_or(setting, |(name, _)| name).to_ascii_lowercase().replace('-', "_"));
    }
    for name in names {
        if let Some((name, help)) = SESSION.iter().find(|(fixed, _)| *fixed == name) {
            return Err(Refused::new(format!("`options` cannot set `{name}`"), *help));
        }
    }
    Ok(Some(text).filter(|text| !text.trim().is_empty()))
}

fn servers(hosts: &[String], addresses: &[String], ports: &[String]) -> Result<Vec<Host>, Refused> {
    let example = "for example postgres://user:password@host:5432/database";
    let number = hosts.len().max(addresses.len());
    if number == 0 {
        return Err(Refused::new(
            "it names no host",
            format!("{example}, or ?host=/var/run/postgresql for a Unix socket"),
        ));
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(Refused::new(
            format!("it has {} hosts and {} addresses (`hostaddr`)", hosts.len(), addresses.len()),
            "each host needs its address",
        ));
    }
    if ports.len() > 1 && ports.len() != number {
        return Err(Refused::new(
            format!("it has {number} hosts and {} ports", ports.len()),
            "give one port for all, or one for each",
        ));
    }
    (0..number)
        .map(|index| {
            let (host, address) = (hosts.get(index).map(String::as_str), addresses.get(index).map(String::as_str));
            let port = ports.get(index).or(ports.first()).map_or("", String::as_str);
            Ok(Host { place: place(host.unwrap_or_default(), address.unwrap_or_default())?, port: port_number(port)? })
        })
        .collect()
}

fn port_number(text: &str) -> Result<u16, Refused> {
    match text {
        "" => Ok(5432),
        text => text
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| Refused::new("a port is not a number from 1 to 65535", "leave it out for 5432")),
    }
}

fn place(host: &str, address: &str) -> Result<Place, Refused> {
    if !is_host(host) {
        return Err(Refused::new(
            "a host has characters that no host name has",
            "if they belong to a password, percent-encode them: `@` is %40, `/` is %2F, `?` is %3F, `#` is %23",
        ));
    }
    if !address.is_empty() {
        let address: IpAddr =
            address.parse().map_err(|_| Refused::new("`hostaddr` is no IP address", "use `host` for a name"))?;
        let name = Some(host).filter(|host| !host.is_empty() && !host.starts_with('/'));
        return Ok(Place::Address(address, name.map(str::to_owned)));
    }
    match host {
        "" => Err(Refused::new("a host is empty", "name each host, with a comma between two")),
        path if path.starts_with('/') => Ok(Place::Socket(path.to_owned())),
        name => match name.parse() {
            Ok(address) => Ok(Place::Address(address, None)),
            Err(_) => Ok(Place::Name(name.to_owned())),
        },
    }
}

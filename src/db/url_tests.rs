//! `database.url`: every parameter takes effect or is refused by name, and nothing of a password is ever shown.

use std::time::Duration;

use proptest::prelude::*;

use crate::config::connection::{ConnectionString, Place, SessionKind};
use crate::config::{Config, DatabaseConfig, Needs, Sources, TlsMode};
use crate::db::Database;
use crate::secret::Secret;

fn parse(text: &str) -> ConnectionString {
    ConnectionString::parse(text).unwrap_or_else(|refused| panic!("{text}: {refused:?}"))
}

fn refused(text: &str) -> String {
    match ConnectionString::parse(text) {
        Ok(target) => panic!("{text} was taken for {target:?}"),
        Err(refused) => format!("{}; {}", refused.why, refused.help),
    }
}

fn settings(url: &str, tls: TlsMode) -> DatabaseConfig {
    DatabaseConfig { url: Secret::new(url), tls, ..DatabaseConfig::default() }
}

#[test]
fn both_forms_say_the_same() {
    let uri =
        parse("postgresql://app:p%40ss@one:5433,[::1],three:5435/shop?target_session_attrs=read-write&sslmode=require");
    let words = parse(
        r"host=one,::1,three port=5433,,5435 user=app password='p@ss' dbname = shop target_session_attrs=read-write sslmode=require",
    );
    assert_eq!(uri, words);
    assert_eq!(uri.describe(), "one:5433,[::1]:5432,three:5435/shop");
    assert_eq!(uri.session, SessionKind::ReadWrite);
    assert_eq!(uri.password.as_ref().map(|password| password.expose()), Some(b"p@ss".as_slice()));
    let quoted = parse(r"host=/var/run/postgresql password='it\'s \\ here' user=a");
    assert_eq!(quoted.password.as_ref().map(|password| password.expose()), Some(br"it's \ here".as_slice()));
    assert_eq!(quoted.hosts[0].place, Place::Socket("/var/run/postgresql".to_owned()));
    assert_eq!(parse("postgres://app@%2Frun%2Fpg/shop").hosts[0].place, Place::Socket("/run/pg".to_owned()));
    assert_eq!(parse("postgres:///shop?host=/run/pg&user=me%40corp").user, Some(Secret::new("me@corp")));
    assert_eq!(parse("postgres://h/d?ssl=true").sslmode, Some(TlsMode::Require));
    let probes = parse("postgres://h/d?keepalives_idle=7&tcp_user_timeout=2500").keepalives;
    assert_eq!((probes.idle, probes.user_timeout), (Some(Duration::from_secs(7)), Some(Duration::from_millis(2_500))));
}

#[test]
fn passwords_that_can_be_read_in_one_way_only_need_no_encoding() {
    for (url, password) in [
        ("postgres://app:p@ss@db/shop", "p@ss"),
        ("postgres://app:p@:@db/shop", "p@:"),
        ("postgres://app:pa/ss@db/shop", "pa/ss"),
        ("postgres://app:pa?ss@db/shop", "pa?ss"),
        ("postgres://app:pa#ss@db/shop", "pa#ss"),
        ("postgres://app:100%sure@db/shop", "100%sure"),
    ] {
        let target = parse(url);
        assert_eq!(target.password.as_ref().map(|password| password.expose()), Some(password.as_bytes()), "{url}");
        assert_eq!(target.describe(), "db:5432/shop", "{url}");
    }
}

#[test]
fn what_would_not_take_effect_is_refused_by_name() {
    for (parameter, help) in [
        ("connect_timeout=3", "`database.connect_timeout`"),
        ("application_name=x", "remove it"),
        ("sslrootcert=/ca.pem", "`database.ca_file`"),
        ("sslcert=/c.pem", "`database.cert_file`"),
        ("sslkey=/k.pem", "`database.key_file`"),
        ("sslpassword=x", "`database.key_file`"),
        ("passfile=/p", "`database.url_file`"),
        ("service=x", "`database.url`"),
        ("requirepeer=postgres", "socket"),
        ("require_auth=scram-sha-256", "channel_binding"),
        ("krbsrvname=x", "GSSAPI"),
        ("gssencmode=require", "GSSAPI"),
        ("replication=database", "`false`"),
        ("sslmode=allow", "`database.tls`"),
        ("sslmode=verify_full", "`verify-full`"),
        ("sslcompression=1", "never compressed"),
        ("sslsni=0", "always sent"),
        ("sslcrl=/crl", "revoked"),
        ("ssl_max_protocol_version=TLSv1.2", "TLSv1.3"),
        ("client_encoding=LATIN1", "UTF8"),
        ("target_session_attrs=standby", "read-write"),
        ("load_balance_hosts=yes", "random"),
        ("keepalives_idle=soon", "whole number"),
        ("options=-csearch_path%3Doutbox", "`outbox.schema`"),
        ("options=-c%20statement_timeout=0", "`database.statement_timeout`"),
        ("options=--enable-seqscan=on", "remove it"),
        ("schema=outbox", "`outbox.schema`"),
        ("pgbouncer=true", "other drivers"),
        ("sslmod=require", "did you mean `sslmode`"),
        ("user=a&user=b", "given twice"),
        ("host=other", "given twice"),
        ("port=0", "1 to 65535"),
    ] {
        let text = refused(&format!("postgres://one/d?{parameter}"));
        assert!(text.contains(help), "{parameter}: {text}");
        let name = parameter.split(['=', '%', '&']).next().unwrap();
        assert!(text.contains(name), "{parameter}: {text}");
    }
    // What says what holds anyway is no reason to refuse.
    parse(
        "postgres://one/d?client_encoding=utf8&gssencmode=prefer&fallback_application_name=x&options=-c%20work_mem%3D64MB",
    );
    for (url, why) in [
        ("postgres:///shop", "names no host"),
        ("postgres://one,/shop", "host is empty"),
        ("postgres://one:99999/shop", "1 to 65535"),
        ("host=a,b,c port=1,2", "3 hosts and 2 ports"),
        ("host=a,b hostaddr=127.0.0.1", "2 hosts and 1 addresses"),
        ("host=a password='x", "quote"),
        ("host=a password='x'y", "closing quote"),
        ("postgres://a/b?user=%00", "NUL"),
    ] {
        assert!(refused(url).contains(why), "{url}: {}", refused(url));
    }
}

/// What the string asks for, the setting, where it goes, and what becomes of it.
#[test]
fn tls_is_never_less_than_what_is_asked_for() {
    use TlsMode::{Auto, Disable, Prefer, Require, VerifyCa, VerifyFull};
    let mode = |url: &str, setting: TlsMode| {
        let target = parse(url);
        target.check(&settings(url, setting)).map(|()| target.tls(setting, target.hosts[0].place.is_local()))
    };
    for (url, setting, expected) in [
        ("postgres://db/d", Auto, VerifyFull),
        ("postgres://localhost/d", Auto, Disable),
        ("postgres://127.0.0.1/d", Auto, Disable),
        ("postgres://[::ffff:127.0.0.1]/d", Auto, Disable),
        ("postgres:///d?host=/run", Auto, Disable),
        ("postgres://localhost/d?sslmode=require", Auto, Require),
        ("postgres://localhost/d?sslmode=verify-full", Auto, VerifyFull),
        ("postgres://localhost/d?sslmode=verify-ca", Auto, VerifyCa),
        ("postgres://localhost/d?sslmode=prefer", Auto, Prefer),
        ("postgres://localhost/d?sslmode=disable", Auto, Disable),
        ("postgres://db/d?sslmode=require", Auto, VerifyFull),
        ("postgres://db/d?sslmode=require", VerifyFull, VerifyFull),
        ("postgres://db/d?sslmode=disable", Disable, Disable),
        ("postgres://localhost/d?hostaddr=10.1.2.3", Auto, VerifyFull),
        ("postgres:///d?hostaddr=10.1.2.3", Auto, VerifyFull),
        ("postgres:///d?host=/run&hostaddr=10.1.2.3", Auto, VerifyFull),
        ("postgres://db/d?hostaddr=127.0.0.1", Auto, Disable),
    ] {
        assert_eq!(mode(url, setting), Ok(expected), "{url} {setting:?}");
    }
    for (url, setting) in [
        ("postgres://db/d?sslmode=verify-full", Require),
        ("postgres://localhost/d?sslmode=require", Disable),
        ("postgres://db/d?sslmode=disable", Auto),
        ("postgres://db/d?sslmode=disable", VerifyFull),
        ("postgres:///d?host=/run&sslmode=require", Auto),
        ("postgres:///d?host=/run", VerifyFull),
        ("postgres://db/d?sslnegotiation=direct", Prefer),
    ] {
        let refused = mode(url, setting).expect_err(url);
        assert!(refused.help.contains("database.tls"), "{url} {setting:?}: {refused:?}");
    }
}

/// Everything that is made of a URL, whether it can be used or not.
fn everything_shown(url: &str) -> String {
    let mut shown = String::new();
    match ConnectionString::parse(url) {
        Ok(target) => shown.push_str(&format!("{target:?} {}", target.describe())),
        Err(refused) => shown.push_str(&format!("{refused:?}")),
    }
    match Database::new(&settings(url, TlsMode::Disable)) {
        Ok(database) => shown.push_str(&format!("{database:?} {}", database.describe())),
        Err(error) => shown.push_str(&format!("{error:?} {}", error.report())),
    }
    let sources = [
        Sources::none().with_variables([("DATABASE_URL", url)]),
        Sources::none().with_text("relay.toml", format!("[database]\nurl = {}\n", toml::Value::from(url))),
    ];
    for sources in sources {
        match Config::load(&sources, Needs::DATABASE) {
            Ok(loaded) => shown.push_str(&format!("{loaded:?}\n{:?}", crate::config::effective(&loaded))),
            Err(error) => shown.push_str(&format!("{error:?} {}{}", error.render(false), error.render(true))),
        }
    }
    shown
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// Pieces of a password that somebody forgot to encode look like everything else that a URL may have.
    #[test]
    fn nothing_of_a_password_is_shown(pieces in prop::collection::vec(prop_oneof![
        Just("@"), Just("/"), Just("?"), Just("#"), Just(":"), Just("%"), Just("%40"), Just("&"), Just("="), Just("'"),
        Just("\\"), Just(" "), Just("["), Just("]"), Just(","), Just("1"), Just("://"), Just("host="), Just("?user="),
        Just("?sslmode="), Just("&port="), Just("cAnArY"), Just("ä"), Just("\""),
    ], 1..9), user in prop_oneof![Just("app"), Just("")], tail in prop_oneof![
        Just("@db/shop"), Just("@db:5432,db2/shop?sslmode=disable"), Just("@[::1]/shop?user2=x"), Just("@db"),
    ]) {
        let password = format!("cAnArY{}cAnArY", pieces.concat());
        for url in [
            format!("postgres://{user}:{password}{tail}"),
            format!("postgresql://{password}{tail}"),
            format!("host=db user=app password='{}' dbname=shop", password.replace('\\', r"\\").replace('\'', r"\'")),
        ] {
            let shown = everything_shown(&url);
            prop_assert!(!shown.contains("cAnArY"), "{}\n{}", url, shown);
        }
    }
}

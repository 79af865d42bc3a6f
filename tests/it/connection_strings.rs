//! `database.url` and its file against real servers: where a connection goes, how it is protected, and a password that
//! changes.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::outbox::{insert_many, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{PrivatePostgres, TestDatabase, Topic, outbox_relay, parts::parts, unique};

const LIMIT: Duration = Duration::from_secs(60);

/// Host and port of a URL of the tests, which have no password, and its database.
fn address(url: &str) -> (&str, u16, &str) {
    let rest = url.rsplit_once('@').expect("a user").1;
    let (host, database) = rest.split_once('/').expect("a database");
    let (host, port) = host.split_once(':').expect("a port");
    (host, port.parse().expect("a number"), database)
}

#[tokio::test]
async fn both_forms_reach_the_server_by_every_way() {
    let database = TestDatabase::migrated("forms").await;
    let (host, port, name) = address(&database.url);
    for url in [
        format!("host={host} port={port} user=postgres dbname='{name}'"),
        format!("postgres://postgres@localhost:{port}/{name}?hostaddr={host}"),
        format!("postgres:///{name}?user=postgres&port={port}&hostaddr={host}"),
        format!("postgres://postgres@[::ffff:{host}]:{port}/{name}"),
        format!("postgres://postgres@127.0.0.1:1,{host}:{port}/{name}?target_session_attrs=read-write"),
        format!("postgresql://postgres@{host}:{port}/{name}?sslmode=prefer&options=-c%20work_mem%3D8MB"),
    ] {
        let call = outbox_relay(&["migrate", "status", "-o", "json"]).env("DATABASE_URL", &url);
        call.run().await.expect_code(0);
    }
}

/// What is asked for, and cannot be had from a server without TLS, is an error and never a plain connection.
#[tokio::test]
async fn a_connection_is_never_less_protected_than_asked() {
    let database = TestDatabase::migrated("protected").await;
    let (host, port, name) = address(&database.url);
    for mode in ["require", "verify-ca", "verify-full"] {
        let url = format!("postgres://postgres@localhost:{port}/{name}?sslmode={mode}");
        let done = outbox_relay(&["migrate", "status"]).env("DATABASE_URL", &url).run().await;
        assert_ne!(done.code, Some(0), "{mode}: {}", done.stdout);
        assert!(done.stderr.contains("TLS"), "{mode}: {}", done.stderr);
    }
    // Named as local, but it leads to another address of this host.
    let Some(other) = other_address() else { return };
    let url = format!("postgres://postgres@localhost:{port}/{name}?hostaddr={other}");
    let done = outbox_relay(&["migrate", "status"]).env("DATABASE_URL", &url).run().await;
    assert_ne!(done.code, Some(0), "{host}: {}", done.stdout);
}

/// An address of this host that is not that of the loopback.
fn other_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Sends nothing: it only asks which address would be used.
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|address| !address.is_loopback())
}

#[tokio::test]
async fn what_has_no_effect_is_refused_before_anything_is_opened() {
    for (parameter, told) in [
        ("options=-csearch_path%3Doutbox", "outbox.schema"),
        ("connect_timeout=3", "database.connect_timeout"),
        ("sslrootcert=/ca.pem", "database.ca_file"),
        ("sslmode=allow", "database.tls"),
        ("currentSchema=outbox", "currentSchema"),
    ] {
        let url = format!("postgres://app:hunter2@127.0.0.1:1/shop?{parameter}");
        let done = outbox_relay(&["check"]).env("DATABASE_URL", &url).run().await.expect_code(3);
        assert!(done.stderr.contains(told), "{parameter}: {}", done.stderr);
        assert!(!done.stderr.contains("hunter2"), "{}", done.stderr);
    }
}

/// Every output of commands that meet a URL which is broken by its password.
#[tokio::test]
async fn a_password_that_breaks_the_url_is_not_shown() {
    for password in ["p@hunter2", "hunter2/x", "hun@ter2/hunter2", "hunter2?x=hunter2@", "a:b@hunter2#", "%hunter2%zz@"]
    {
        let url = format!("postgres://app:{password}@127.0.0.1:1/shop");
        for args in [
            &["check"][..],
            &["migrate", "status"],
            &["lag"],
            &["events", "ls"],
            &["config", "show"],
            &["migrate", "up", "-vv"],
        ] {
            let done = outbox_relay(args).env("DATABASE_URL", &url).run().await;
            assert!(
                !format!("{}{}", done.stdout, done.stderr).contains("hunter2"),
                "{args:?} {password}: {}",
                done.stderr
            );
        }
    }
}

async fn set_password(admin: &Client, role: &str, password: &str) {
    admin.batch_execute(&format!("alter role {role} password '{password}'")).await.expect("alter role");
}

/// A server that wants passwords, a file with the URL, and a password that changes in both, the server first.
#[tokio::test]
async fn a_password_that_was_changed_in_its_file_is_used() {
    let postgres = PrivatePostgres::start().await;
    let database = TestDatabase::migrated_at(&postgres.url).await;
    let admin = database.connect().await;
    let role = unique("rotated").replace('-', "_");
    admin.batch_execute(&format!("create role {role} superuser login password 'hunter2-first'")).await.expect("a role");
    let rules: String = admin.query_one("select current_setting('hba_file')", &[]).await.expect("hba_file").get(0);
    let old = std::fs::read_to_string(&rules).expect("pg_hba.conf");
    std::fs::write(&rules, format!("host all {role} all scram-sha-256\n{old}")).expect("pg_hba.conf");
    admin.execute("select pg_reload_conf()", &[]).await.expect("reload");

    let (host, port, name) = address(&postgres.url);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("url");
    let write = |password: &str| std::fs::write(&file, format!("postgres://{role}:{password}@{host}:{port}/{name}\n"));
    write("hunter2-first").expect("the file");
    let topic = Topic::create("rotated", 3).await;
    let relay = RelaySettings::new(&database, &parts().kafka)
        .env("DATABASE_URL", "")
        .set("database.url_file", file.to_str().expect("UTF-8"))
        .start_ready()
        .await;
    insert_many(&admin, &topic.name, 10, 100).await;
    assert_eq!(wait_until_published(&database, LIMIT).await, 100);

    set_password(&admin, &role, "hunter2-second").await;
    end_sessions(&admin, &role).await;
    relay.wait_for_log("password authentication failed").await;
    write("hunter2-second").expect("the file");
    insert_many(&admin, &topic.name, 10, 100).await;
    assert_eq!(wait_until_published(&database, LIMIT).await, 200);
    assert!(!relay.log_text().contains("hunter2"), "a password is in the log");
}

async fn end_sessions(admin: &Client, role: &str) {
    let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = $1";
    admin.query_one(end, &[&role]).await.expect("sessions");
}

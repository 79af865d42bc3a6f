//! Nothing waits without a limit: sockets that fall silent, servers that freeze, locks of others, clients that say
//! nothing.

use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_postgres::Client;

use crate::proxy::Proxy;
use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, counts, insert_many, most_attempts, wait_until_published};
use crate::support::relay::{RelaySettings, leases};
use crate::support::{
    NewRow, PrivatePostgres, TestDatabase, Topic, http, order, outbox_relay, parts::parts, wait_until,
};
use crate::traps::Protocol;
use crate::weather::{Direction, Weather};

/// For what must happen at all; every limit of the relay is shorter.
const PATIENCE: Duration = Duration::from_secs(120);
/// `run.shutdown_timeout` of the relays that are stopped here, and how long that may take on a machine that stalls. No
/// other limit of a relay would end it sooner.
const SHUTDOWN: (&str, Duration) = ("5s", Duration::from_secs(25));

async fn wait_for_published(client: &Client, at_least: i64) {
    wait_until(&format!("{at_least} rows are published"), PATIENCE, async || {
        let counts = counts(client).await;
        if counts.get("PUBLISHED").copied().unwrap_or(0) >= at_least { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

fn address_of(url: &str) -> &str {
    url.split('@').nth(1).and_then(|rest| rest.split('/').next()).expect("host:port")
}

fn port_of(address: &str) -> u16 {
    address.rsplit(':').next().and_then(|port| port.parse().ok()).expect("host:port")
}

/// The sockets to PostgreSQL go silent, and new connections work: what a failover behind a proxy that has died looks
/// like.
#[tokio::test]
async fn connections_that_fall_silent_are_replaced_and_everything_flows_again() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("silent"), Topic::create("silent", 6));
    let client = database.connect().await;
    let server = address_of(&database.url);
    let behind = Proxy::to(Protocol::Postgres, port_of(server)).await;
    let proxy = Proxy::to(Protocol::Postgres, behind.port).await;
    let url = database.url.replace(server, &format!("127.0.0.1:{}", proxy.port));
    let mut relay = RelaySettings::new(&database, &parts().kafka)
        .env("DATABASE_URL", &url)
        .set("database.statement_timeout", "10s")
        .set("relay.lease", "60s")
        .start_ready()
        .await;
    insert_many(&client, &topic.name, 40, 400).await;
    wait_for_published(&client, 400).await;

    // What is connected hangs behind the second proxy; what connects from now on goes past it.
    behind.set_weather(Direction::Both, Some(Weather::Hold));
    proxy.lead_to(port_of(server));
    insert_many(&client, &topic.name, 40, 400).await;
    // It is unready for a moment only: until the first connection is replaced.
    relay.wait_for_log("PostgreSQL did not answer a statement within").await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 800);
    relay.wait_for_readiness(200, "[+]postgres ok").await;
    assert!(relay.is_running());
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    report.expect_kept();
    assert_eq!(most_attempts(&client).await, 0);
}

/// Also the process that accepts connections alone: then what is connected works, and what connects anew waits.
///
/// Promise: stops.
#[tokio::test]
async fn a_stop_ends_in_time_while_postgres_is_frozen() {
    let postgres = PrivatePostgres::start().await;
    let (database, topic) = tokio::join!(TestDatabase::migrated_at(&postgres.url), Topic::create("frozen", 3));
    let client = database.connect().await;
    let settings = RelaySettings::new(&database, &parts().kafka).set("run.shutdown_timeout", SHUTDOWN.0);
    for alone in [true, false] {
        let mut relay = settings.start_ready().await;
        insert_many(&client, &topic.name, 10, 100).await;
        wait_until_published(&database, PATIENCE).await;
        let frozen = match alone {
            true => postgres.freeze_postmaster(),
            false => postgres.freeze(),
        };
        if !alone {
            relay.wait_for_readiness(503, "[-]postgres failed").await;
        }
        let took = relay.terminate().await;
        assert!(took < SHUTDOWN.1, "it took {took:?}:\n{}", relay.log_text());
        drop(frozen);
    }
    let _relay = settings.start_ready().await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 200);
    order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await)).expect_kept();
}

/// `synchronous_standby_names` names somebody who is not there: every COMMIT waits, `statement_timeout` or not.
#[tokio::test]
async fn a_commit_that_waits_for_a_missing_standby_makes_it_unready_and_does_not_hold_up_a_stop() {
    let postgres = PrivatePostgres::start().await;
    let (database, topic) = tokio::join!(TestDatabase::migrated_at(&postgres.url), Topic::create("standby", 3));
    let client = database.connect().await;
    client.batch_execute("set synchronous_commit = local").await.expect("our own commits do not wait");
    let settings = RelaySettings::new(&database, &parts().kafka).set("run.shutdown_timeout", SHUTDOWN.0);
    let mut relay = settings.start_ready().await;
    insert_many(&client, &topic.name, 10, 100).await;
    wait_for_published(&client, 100).await;
    let standby = async |names: &str| {
        client
            .execute(&format!("alter system set synchronous_standby_names = '{names}'"), &[])
            .await
            .expect("a setting");
        client.execute("select pg_reload_conf()", &[]).await.expect("a reload");
    };
    standby("nobody").await;
    insert_many(&client, &topic.name, 10, 100).await;
    relay.wait_for_readiness(503, "[-]postgres failed").await;
    relay.wait_for_log("synchronous_standby_names").await;
    let took = relay.terminate().await;
    assert!(took < SHUTDOWN.1, "it took {took:?}:\n{}", relay.log_text());
    standby("").await;
    let _relay = settings.start_ready().await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 200);
    order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await)).expect_kept();
}

/// A listener that accepts and never speaks, and a server whose postmaster is frozen.
#[tokio::test]
async fn every_command_gives_up_on_a_server_that_accepts_and_never_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = format!("postgres://u:p@{}/d", silent.local_addr().expect("bound"));
    let postgres = PrivatePostgres::start().await;
    let frozen = postgres.freeze_postmaster();
    let commands: [&[&str]; 13] = [
        &["migrate", "up"],
        &["migrate", "status"],
        &["events", "ls"],
        &["events", "retry", "1"],
        &["lag"],
        &["shards", "ls"],
        &["shards", "set", "4", "--yes"],
        &["pause"],
        &["cleanup", "--older-than", "1d", "--yes"],
        &["replay", "--topic", "t", "--yes"],
        &["dlq", "ls"],
        &["recover"],
        &["check", "-o", "json"],
    ];
    for url in [silent.as_str(), postgres.url.as_str()] {
        let calls = commands.iter().map(|command| {
            let call = outbox_relay(command)
                .env("DATABASE_URL", url)
                .env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
                .env("OUTBOX_RELAY_DATABASE__CONNECT_TIMEOUT", "2s");
            // Fails the test after two minutes.
            call.run()
        });
        for ended in futures_util::future::join_all(calls).await {
            let ended = ended.expect_code(4);
            // `check` tells it as a finding, the others as an error.
            let told = format!("{}{}", ended.stdout, ended.stderr);
            assert!(told.contains("did not complete a connection within 2 s"), "{}: {told}", ended.call);
        }
    }
    drop(frozen);
}

/// `run` waits for such a server, says so, and stops when it is told to; once the server answers, it works.
#[tokio::test]
async fn a_start_waits_for_a_server_that_accepts_and_never_answers() {
    let postgres = PrivatePostgres::start().await;
    let (database, topic) = tokio::join!(TestDatabase::migrated_at(&postgres.url), Topic::create("start", 3));
    let frozen = postgres.freeze_postmaster();
    let settings = RelaySettings::new(&database, &parts().kafka)
        .set("run.shutdown_timeout", SHUTDOWN.0)
        .set("database.connect_timeout", "2s");
    let (mut stopped, waiting) = (settings.start(), settings.start());
    for relay in [&stopped, &waiting] {
        relay.wait_for_log("waiting for PostgreSQL").await;
        relay.wait_for_readiness(503, "[-]schema failed").await;
    }
    let took = stopped.terminate().await;
    assert!(took < SHUTDOWN.1, "it took {took:?}");
    drop(frozen);
    waiting.wait_for_readiness(200, "[+]postgres ok").await;
    NewRow::new(&topic.name, "k", "{}").insert(&database.connect().await).await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 1);
}

/// A migration may take as long as it needs, but only while the server works on it.
#[tokio::test]
async fn a_migration_ends_when_its_server_freezes() {
    let postgres = PrivatePostgres::start().await;
    let database = TestDatabase { url: postgres.url.clone() };
    let client = database.connect().await;
    // The lock that migrations take.
    client.execute("select pg_advisory_lock($1)", &[&0x6f75_7462_6f78_i64]).await.expect("the lock");
    let migrating = outbox_relay(&["migrate", "up"])
        .env("DATABASE_URL", &database.url)
        .env("OUTBOX_RELAY_DATABASE__CONNECT_TIMEOUT", "2s")
        .start();
    wait_until("it waits for the lock", PATIENCE, async || {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        let waiting: i64 = client.query_one(waiting, &[]).await.expect("locks").get(0);
        if waiting > 0 { Ok(()) } else { Err("nobody".to_owned()) }
    })
    .await;
    let frozen = postgres.freeze();
    // Fails the test after two minutes.
    let ended = migrating.finish().await.expect_code(4);
    assert!(ended.stderr.contains("stopped answering"), "{}", ended.stderr);
    drop(frozen);
}

/// Somebody locks the row of one shard for much longer than a lease: the others are renewed past it, and so is the
/// heartbeat.
#[tokio::test]
async fn a_locked_row_of_a_shard_stops_that_shard_alone() {
    /// In seconds.
    const LEASE: i64 = 20;
    let (database, topic) = tokio::join!(TestDatabase::migrated("locked-row"), Topic::create("locked-row", 6));
    let (client, mut stranger) = (database.connect().await, database.connect().await);
    let settings = |name: &str| {
        let lease = format!("{LEASE}s");
        RelaySettings::new(&database, &parts().kafka).set("relay.lease", &lease).instance(name)
    };
    let (first, second) = tokio::join!(settings("first").start_ready(), settings("second").start_ready());
    wait_until("each has half of the shards", PATIENCE, async || {
        let leases = leases(&client).await;
        if leases.len() == 2 && leases.values().all(|count| *count == 4) { Ok(()) } else { Err(format!("{leases:?}")) }
    })
    .await;
    let epochs = async || {
        let rows = client.query("select epoch from outbox_shards where shard <> 3 order by shard", &[]).await;
        rows.expect("shards").iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>()
    };
    let before = epochs().await;
    let lock = stranger.transaction().await.expect("a transaction");
    let locked = "select clock_timestamp() from outbox_shards where shard = 3 for update";
    let locked: jiff::Timestamp = lock.query_one(locked, &[]).await.expect("the row").get(0);
    insert_many(&client, &topic.name, 80, 800).await;
    let of_others = "select count(*) from outbox_current where status <> 'PUBLISHED' and shard <> 3";
    wait_until("the other shards are published", PATIENCE, async || {
        let left: i64 = client.query_one(of_others, &[]).await.expect("a count").get(0);
        if left == 0 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;
    // Twice as long as they would be without a renewal since the lock, and where they were.
    let renewed = "select min(lease_until) > $1::timestamptz + $2::bigint * interval '1 second' from outbox_shards where shard <> 3";
    wait_until("the leases of the other shards are renewed", PATIENCE, async || {
        let renewed: bool = client.query_one(renewed, &[&locked, &(2 * LEASE)]).await.expect("leases").get(0);
        if renewed { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    assert_eq!(epochs().await, before, "the other shards stay where they are");
    let stuck: i64 = client
        .query_one("select count(*) from outbox_current where status = 'PENDING' and shard = 3", &[])
        .await
        .expect("a count")
        .get(0);
    assert!(stuck > 0, "the lock held nothing up");
    lock.rollback().await.expect("the lock goes");
    assert_eq!(wait_until_published(&database, PATIENCE).await, 800);
    for mut relay in [first, second] {
        assert!(relay.is_running(), "{}", relay.log_text());
    }
    order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await)).expect_kept().expect_no_repeats();
}

/// More connections than the admin server keeps, all silent.
#[tokio::test]
async fn silent_connections_to_the_admin_port_keep_no_probe_waiting() {
    let database = TestDatabase::migrated("silent-admin").await;
    let relay = RelaySettings::new(&database, &parts().kafka).start_ready().await;
    let mut silent = Vec::new();
    for _ in 0..600 {
        silent.push(TcpStream::connect(relay.admin()).await.expect("a connection"));
    }
    for path in ["/livez", "/metrics"] {
        let (status, _) = http::get(relay.admin(), path).await.expect("an answer in spite of them");
        assert_eq!(status, 200, "{path}");
    }
    relay.wait_for_readiness(200, "").await;
    drop(silent);
}

/// Every thread of the runtime is stuck, as when a library blocks: nobody hears a signal there, and no timer fires.
/// Others tell how things are, and end the process.
///
/// Promise: stops.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_runtime_whose_threads_are_all_stuck_is_reported_and_stopped_in_time() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("stuck"), Topic::create("stuck", 6));
    let client = database.connect().await;
    let mut relay = RelaySettings::new(&database, &parts().kafka)
        .set("run.shutdown_timeout", SHUTDOWN.0)
        .env("FAILPOINTS", "commit.after=return(600000)")
        .start_ready()
        .await;
    insert_many(&client, &topic.name, 80, 800).await;
    relay.wait_for_readiness(503, "[-]postgres failed: no success for").await;
    let (status, _) = http::get(relay.admin(), "/livez").await.expect("an answer");
    assert_eq!(status, 200, "a stall of a minute is not the end");
    let took = relay.terminate().await;
    assert!(took < SHUTDOWN.1, "it took {took:?}");
    // What was acknowledged was not marked: the next one sends it again, as after a crash.
    let _next = RelaySettings::new(&database, &parts().kafka).start_ready().await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 800);
    order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await)).expect_kept();
}

/// While PostgreSQL cannot be asked, the gauges of the backlog are absent, and come back with it.
#[tokio::test]
async fn the_gauges_of_the_backlog_are_absent_while_it_cannot_be_counted() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("gauges"), Topic::create("gauges", 1));
    let client = database.connect().await;
    let proxy = Proxy::to(Protocol::Postgres, port_of(address_of(&database.url))).await;
    let url = database.url.replace(address_of(&database.url), &format!("127.0.0.1:{}", proxy.port));
    let relay = RelaySettings::new(&database, &parts().kafka)
        .env("DATABASE_URL", &url)
        .set("database.statement_timeout", "2s")
        .start_ready()
        .await;
    let gauges = ["pending_events", "failed_events", "held_events", "oldest_pending_age_seconds"];
    let shown = async |wanted: bool| {
        wait_until(&format!("gauges are shown: {wanted}"), PATIENCE, async || {
            let (_, metrics) = http::get(relay.admin(), "/metrics").await?;
            let is_shown = |name: &&str| metrics.contains(&format!("\noutbox_relay_{name} "));
            if gauges.iter().all(|name| is_shown(name) == wanted) { Ok(()) } else { Err(metrics) }
        })
        .await;
    };
    shown(true).await;
    proxy.set_weather(Direction::Both, Some(Weather::Hold));
    insert_many(&client, &topic.name, 5, 30).await;
    shown(false).await;
    proxy.set_weather(Direction::Both, None);
    shown(true).await;
    assert_eq!(wait_until_published(&database, PATIENCE).await, 30);
}

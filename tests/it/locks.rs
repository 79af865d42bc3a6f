//! The lock barrier among strangers: what draws ids in odd ways, under odd names, or twice, is neither lost nor passed
//! over.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::{Database, Role};
use outbox_relay::outbox::barrier::Barrier;
use outbox_relay::secret::Secret;
use tokio_postgres::{Client, NoTls};

use crate::support::outbox::{insert_many, wait_for_status, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{
    NewRow, PrivatePostgres, TestDatabase, Topic, http, parts::parts, side_by_side, unique, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const TRACKINGS: [&str; 2] = ["rows", "watermark"];

fn settings(database: &TestDatabase, tracking: &str) -> RelaySettings {
    let settings = RelaySettings::new(database, &parts().kafka).steady();
    settings.set("relay.tracking", tracking).set("run.deployment", &unique("locks"))
}

async fn number(client: &Client, query: &str) -> i64 {
    client.query_one(query, &[]).await.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
}

/// Waits until every shard has left this id behind.
async fn wait_until_passed(client: &Client, id: i64) {
    wait_until("the shards have passed it", PATIENCE, async || {
        let lowest = number(client, "select min(greatest(low_id, done_id + 1)) from outbox_shards").await;
        if lowest > id { Ok(()) } else { Err(lowest.to_string()) }
    })
    .await;
}

/// A session of an application may be called whatever it likes.
///
/// Promise: watermark.
#[tokio::test]
async fn a_writer_under_the_name_of_a_lane_is_waited_for() {
    side_by_side(TRACKINGS, async |tracking| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("name"), Topic::create("name", 3));
        let client = database.connect().await;
        let mut config: tokio_postgres::Config = database.url.parse().expect("a URL");
        let (mut writer, connection) =
            config.application_name("outbox-relay lane").connect(NoTls).await.expect("a connection");
        outbox_relay::supervisor::detach("test connection", async move { drop(connection.await) });
        let mut relay = settings(&database, tracking).start_ready().await;
        let open = writer.transaction().await.expect("begin");
        let early: i64 =
            open.query_one(&NewRow::new(&topic.name, "early", "{}").statement(), &[]).await.expect("insert").get(0);
        for round in 0..10 {
            insert_many(&client, &topic.name, 50, 50).await;
            let expected = i64::from((round + 1) * 50);
            wait_until("the others are published", PATIENCE, async || {
                let published = number(&client, "select count(*) from outbox_current where status = 'PUBLISHED'").await;
                if published == expected { Ok(()) } else { Err(published.to_string()) }
            })
            .await;
        }
        let lowest = number(&client, "select max(greatest(low_id, done_id + 1)) from outbox_shards").await;
        assert!(lowest <= early, "{tracking}: a shard is at {lowest}, past {early}, which is not committed");
        open.commit().await.expect("commit");
        wait_for_status(&client, early, "PUBLISHED").await;
        relay.terminate().await;
        assert!(topic.records().await.iter().any(|record| record.outbox_id() == early), "{tracking}");
        relay.expect_no_error_lines();
    })
    .await;
}

/// A trigger of the application that notes in the outbox what became of an event. It runs in the lane's session, in the
/// lane's transaction.
const ECHO: &str = "
    create function echo() returns trigger language plpgsql as $$
    begin
      insert into outbox_events (aggregate_id, event_type, topic, payload)
      select 'echo-' || new.id || '-' || n, 'Echo', new.topic, '{}' from generate_series(1, 16) n;
      -- The transaction stays open until the test lets it go, while others draw ids and commit.
      perform pg_advisory_xact_lock(4711);
      return null;
    end $$;
    create trigger echo after update of status on outbox_events
      for each row when (new.aggregate_id = 'loud') execute function echo()";

/// Promise: watermark.
#[tokio::test]
async fn what_a_trigger_inserts_in_the_session_of_a_lane_is_not_passed() {
    side_by_side(TRACKINGS, async |tracking| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("echo"), Topic::create("echo", 3));
        let client = database.connect().await;
        client.batch_execute(ECHO).await.expect("the trigger");
        let mut relay = settings(&database, tracking).start_ready().await;
        let gate = database.connect().await;
        gate.execute("select pg_advisory_lock(4711)", &[]).await.expect("the gate");
        // Held until its time, so that a lane updates it in either tracking.
        NewRow::new(&topic.name, "loud", "{}").sql("available_at", "now() + interval '1 hour'").insert(&client).await;
        wait_until("the trigger is at work", PATIENCE, async || {
            let open = "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 and not granted \
                and database = (select oid from pg_database where datname = current_database())";
            if number(&client, open).await > 0 { Ok(()) } else { Err("not yet".to_owned()) }
        })
        .await;
        for _ in 0..20 {
            insert_many(&client, &topic.name, 50, 50).await;
        }
        drop(gate);
        wait_until("its time has come", PATIENCE, async || {
            let due = "with early as (update outbox_events set available_at = now() where aggregate_id = 'loud') \
                       update outbox_held_keys set release_at = now() where partition_key = 'loud'";
            let held = client.execute(due, &[]).await.expect("an answer");
            if held == 1 { Ok(()) } else { Err("it is not held yet".to_owned()) }
        })
        .await;
        // Held, and released: twice, and once more where it is marked.
        let echoes = if tracking == "rows" { 48 } else { 32 };
        wait_until("all echoes are there and published", PATIENCE, async || {
            let there = number(&client, "select count(*) from outbox_current where event_type = 'Echo'").await;
            let waiting = number(&client, "select count(*) from outbox_current where status <> 'PUBLISHED'").await;
            if there >= echoes && waiting == 0 { Ok(()) } else { Err(format!("{there} echoes, {waiting} wait")) }
        })
        .await;
        relay.terminate().await;
        let sent = topic.records().await;
        let rows = client.query("select id from outbox_events", &[]).await.expect("rows");
        let lost: Vec<i64> = rows
            .iter()
            .map(|row| row.get(0))
            .filter(|id| !sent.iter().any(|record| record.outbox_id() == *id))
            .collect();
        assert!(lost.is_empty(), "{tracking}: never sent: {lost:?}");
        relay.expect_no_error_lines();
    })
    .await;
}

/// Promise: watermark.
#[tokio::test]
async fn a_relay_does_not_start_on_a_sequence_that_gives_ids_out_of_turn() {
    side_by_side(TRACKINGS, async |tracking| {
        for fault in ["set cache 20", "set increment by -1 set maxvalue 9223372036854775807", "set cycle"] {
            let database = TestDatabase::migrated("sequence").await;
            let change = format!("alter table outbox_events alter column id {fault}");
            database.connect().await.batch_execute(&change).await.expect("the change");
            let mut relay = settings(&database, tracking).start();
            assert_eq!(relay.wait_for_exit(PATIENCE).await, Some(6), "{fault}: {}", relay.log_text());
            assert!(relay.log_text().contains("alter column id set"), "{fault}: {}", relay.log_text());
        }
    })
    .await;
}

/// The same while it runs: it goes on publishing, says that it is not in order, and passes nothing.
///
/// Promise: watermark.
#[tokio::test]
async fn a_sequence_that_is_cached_later_stops_the_watermark_and_readiness() {
    side_by_side(TRACKINGS, async |tracking| {
        let (database, topic) = tokio::join!(TestDatabase::migrated("cached"), Topic::create("cached", 3));
        let (client, late) = (database.connect().await, database.connect().await);
        let relay = settings(&database, tracking).start_ready().await;
        insert_many(&client, &topic.name, 50, 100).await;
        wait_until_published(&database, PATIENCE).await;
        let alter = |cache: i32| format!("alter table outbox_events alter column id set cache {cache}");
        client.batch_execute(&alter(20)).await.expect("a cache");
        let ready = async |expected: u16| {
            wait_until(&format!("/readyz says {expected}"), PATIENCE, async || {
                let (status, body) = http::get(relay.admin(), "/readyz?verbose").await?;
                if status == expected { Ok(body) } else { Err(format!("{status} {body}")) }
            })
            .await
        };
        assert!(ready(503).await.contains("set cache 1"), "{tracking}");
        // It draws twenty ids and uses one.
        let first = NewRow::new(&topic.name, "late", "{}").insert(&late).await;
        for _ in 0..10 {
            insert_many(&client, &topic.name, 50, 50).await;
        }
        wait_until_published(&database, PATIENCE).await;
        client.batch_execute(&alter(1)).await.expect("no cache");
        ready(200).await;
        // Its cached ids are gone with the cache.
        let second = NewRow::new(&topic.name, "later", "{}").insert(&late).await;
        assert!(second > first + 500, "{second}");
        wait_until_published(&database, PATIENCE).await;
        let sent = topic.records().await;
        assert_eq!(sent.len(), 602, "{tracking}");
        insert_many(&client, &topic.name, 50, 50).await;
        wait_until_published(&database, PATIENCE).await;
        wait_until_passed(&client, second).await;
    })
    .await;
}

/// PostgreSQL restarts all sessions in place when one of them is killed. Its postmaster goes on, and the last ids may
/// be drawn again.
///
/// Promise: watermark.
#[tokio::test]
async fn a_crash_of_a_session_ends_what_the_barrier_has_reached() {
    let postgres = PrivatePostgres::start().await;
    let test = TestDatabase::migrated_at(&postgres.url).await;
    let client = test.connect().await;
    let settings = DatabaseConfig { url: Secret::new(&test.url), ..DatabaseConfig::default() };
    let database = Database::new(&settings).expect("a good URL");
    insert_many(&client, "t", 10, 100).await;
    let mut barrier = Barrier::new(database.pool(Role::Lease, 1));
    let before = barrier.probe().await.expect("a look");
    assert_eq!(before.id, 100);
    let started = "select pg_postmaster_start_time()::text";
    let started_before: String = client.query_one(started, &[]).await.expect("a time").get(0);
    let process = number(&client, "select pg_backend_pid()::bigint").await;
    let killed =
        std::process::Command::new("kill").args(["-KILL", &process.to_string()]).status().expect("kill starts");
    assert!(killed.success());
    let client = wait_until("the sessions are new", PATIENCE, async || {
        let client = test.try_connect().await.map_err(|error| error.to_string())?;
        client.query_one(started, &[]).await.map_err(|error| error.to_string())?;
        Ok(client)
    })
    .await;
    let started_after: String = client.query_one(started, &[]).await.expect("a time").get(0);
    assert_eq!(started_after, started_before, "the postmaster is the same");
    let after =
        wait_until("the barrier looks again", PATIENCE, async || barrier.probe().await.map_err(|error| error.chain()))
            .await;
    assert_ne!(after.server, before.server, "what was reached before the crash counts for nothing");
}

//! Migrations among strangers: the history of version 0.1, histories and tables of applications, transactions that stay
//! open.

use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::support::outbox::{counts, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, unique, wait_until};

/// The newest migration of version 0.1.
const LAST_OF_0_1: &str = "7";

/// An application's table of history, as refinery makes it, with migrations of its own.
const FOREIGN_HISTORY: &str = "create table refinery_schema_history \
      (version int4 primary key, name varchar(255), applied_on varchar(255), checksum varchar(255)); \
    insert into refinery_schema_history values (1, 'shop', '2026-01-01T00:00:00Z', '42'), (2, 'consumer', 'yesterday', 'x'), \
      (3, 'more', null, null), (12, 'last', '2026-01-01T00:00:00Z', '43')";

/// What version 0.1 leaves behind: the migrations up to V7, noted under refinery's own name.
async fn make_0_1(client: &Client) {
    let printed = outbox_relay(&["migrate", "sql"]).run().await.expect_code(0).stdout;
    let later = outbox_relay(&["migrate", "sql", "--after", LAST_OF_0_1]).run().await.expect_code(0).stdout;
    let first_later = later.find("\n-- V").map(|at| later[at..].lines().nth(1).expect("a line").to_owned());
    let end =
        first_later.map_or(printed.len(), |line| printed.find(&format!("\n{line}\n")).expect("the same migration"));
    let sql = printed[..end].replace("outbox_schema_history", "refinery_schema_history");
    client.batch_execute(&format!("{sql}\ncommit;")).await.expect("the schema of 0.1");
}

async fn states(database: &TestDatabase) -> (Option<i32>, Vec<String>) {
    let status = outbox_relay(&["migrate", "status", "-o", "json"]).env("DATABASE_URL", &database.url).run().await;
    let lines = status.json();
    let states = lines.as_array().expect("a list").iter().map(|line| line["state"].as_str().unwrap().to_owned());
    (status.code, states.collect())
}

async fn history(client: &Client, table: &str) -> Vec<(i32, String, Option<String>)> {
    let sql = format!("select version, name, checksum from {table} order by 1");
    let rows = client.query(&sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

#[tokio::test]
async fn an_outbox_of_0_1_is_taken_over_with_its_rows_and_grants_and_goes_on() {
    let (database, topic) = tokio::join!(TestDatabase::empty("from-0-1"), Topic::create("from-0-1", 3));
    let client = database.connect().await;
    make_0_1(&client).await;
    let reader = unique("reader").replace('-', "_");
    client
        .batch_execute(&format!("create role {reader} login; grant select on refinery_schema_history to {reader}"))
        .await
        .unwrap();
    let before = history(&client, "refinery_schema_history").await;
    assert_eq!(before.len(), 7);
    let (code, found) = states(&database).await;
    assert_eq!((code, &found[..7]), (Some(6), &["applied"; 7].map(str::to_owned)[..]), "0.1 is recognised: {found:?}");
    assert!(found[7..].iter().all(|state| state == "pending") && found.len() > 7, "{found:?}");

    // A row in each state, as 0.1 leaves them.
    for (key, change) in [
        ("waits", "published_at = null"),
        ("done", "status = 'PUBLISHED', published_at = now()"),
        ("failed", "status = 'FAILED', last_error = 'x', failed_at = now()"),
        ("dropped", "status = 'DISCARDED'"),
    ] {
        let id = NewRow::new(&topic.name, key, "{}").insert(&client).await;
        client.execute(&format!("update outbox_events set {change} where id = {id}"), &[]).await.unwrap();
    }
    let held = NewRow::new(&topic.name, "failed", "{}").insert(&client).await;
    client
        .batch_execute(&format!(
            "update outbox_events set status = 'HELD' where id = {held}; \
             insert into outbox_held_keys (first_id, shard, partition_key, reason) \
               select id, shard, 'failed', 'failed' from outbox_events where status = 'FAILED'"
        ))
        .await
        .unwrap();

    database.migrate().await;
    assert_eq!(history(&client, "outbox_schema_history").await[..7], before[..]);
    assert_eq!(
        history(&client, "refinery_schema_history").await,
        before,
        "0.1 must not think that it has to begin anew"
    );
    let may = format!("select has_table_privilege('{reader}', 'outbox_schema_history', 'select')");
    assert!(client.query_one(&may, &[]).await.unwrap().get::<_, bool>(0), "who could see the history still can");
    let (code, found) = states(&database).await;
    assert!(code == Some(0) && found.iter().all(|state| state == "applied"), "{code:?} {found:?}");
    database.migrate().await;

    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    assert_eq!(topic.wait_for_records(1).await.len(), 1);
    let retry = ["events", "retry", "--status", "failed", "--yes", "--reason", "upgraded"];
    outbox_relay(&retry).env("DATABASE_URL", &database.url).run().await.expect_code(0);
    let records = topic.wait_for_records(3).await;
    assert_eq!(
        records[1].key_text().into_iter().chain(records[2].key_text()).collect::<Vec<_>>(),
        ["failed", "failed"]
    );
    wait_until("the states are as they should be", Duration::from_secs(60), async || {
        let counts = counts(&client).await;
        let right = counts.get("PUBLISHED") == Some(&4) && counts.get("DISCARDED") == Some(&1) && counts.len() == 2;
        if right { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    relay.terminate().await;
}

/// With its own words: what 0.1 says of itself every second or two.
#[tokio::test]
async fn an_instance_of_0_1_is_refused_by_name_after_the_upgrade() {
    let database = TestDatabase::migrated("0-1-beside").await;
    let client = database.connect().await;
    let heartbeat = "insert into outbox_instances (instance, name, version, session_lock) \
        values (gen_random_uuid(), 'old', '0.1.0', true) on conflict (instance) do update set heartbeat_at = clock_timestamp()";
    let refused = client.execute(heartbeat, &[]).await.expect_err("0.1 cannot say that it lives");
    let refused = refused.as_db_error().expect("an answer of the server");
    assert_eq!(refused.code(), &SqlState::CHECK_VIOLATION);
    assert!(refused.message().contains("this_outbox_relay_is_older_than_the_schema"), "{}", refused.message());
}

/// One that was alive while the schema was upgraded.
#[tokio::test]
async fn instances_of_0_1_that_run_during_the_upgrade_are_named_and_can_no_longer_renew_their_place() {
    let database = TestDatabase::empty("0-1-running").await;
    let client = database.connect().await;
    make_0_1(&client).await;
    let beat = "insert into outbox_instances (instance, name, version, session_lock) \
        values ('00000000-0000-0000-0000-000000000001', 'old-one', '0.1.0', true) \
        on conflict (instance) do update set heartbeat_at = clock_timestamp()";
    client.execute(beat, &[]).await.unwrap();
    let said = outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).run().await.expect_code(0).stderr;
    assert!(said.contains("old-one") && said.contains("0.1.0"), "{said}");
    assert!(client.execute(beat, &[]).await.is_err());
    // The session of 0.1 ends with its heartbeat; that must not pass for its death, by which others would take its
    // shards.
    let lock = "select session_lock from outbox_instances";
    assert!(!client.query_one(lock, &[]).await.unwrap().get::<_, bool>(0));
    // Nor is the heartbeat of the new version kept from clearing it away.
    let cleared = client.execute("delete from outbox_instances", &[]).await.unwrap();
    assert_eq!(cleared, 1);
}

#[tokio::test]
async fn the_history_of_an_application_is_left_alone_and_in_nobodys_way() {
    let (database, topic) = tokio::join!(TestDatabase::empty("foreign-history"), Topic::create("foreign-history", 1));
    let client = database.connect().await;
    client.batch_execute(FOREIGN_HISTORY).await.unwrap();
    let before = history(&client, "refinery_schema_history").await;
    assert!(states(&database).await.1.iter().all(|state| state == "pending"));
    database.migrate().await;
    let (code, found) = states(&database).await;
    assert!(code == Some(0) && found.iter().all(|state| state == "applied"), "{found:?}");
    assert_eq!(history(&client, "refinery_schema_history").await, before);
    NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    assert_eq!(wait_until_published(&database, Duration::from_secs(60)).await, 1);
    relay.terminate().await;

    // A table of that name that has other columns altogether.
    let database = TestDatabase::empty("odd-history").await;
    let client = database.connect().await;
    client.batch_execute("create table refinery_schema_history (number text, done bool)").await.unwrap();
    database.migrate().await;
    assert_eq!(states(&database).await.0, Some(0));
}

#[tokio::test]
async fn changed_and_unknown_migrations_are_told_by_name() {
    let database = TestDatabase::migrated("changed").await;
    let client = database.connect().await;
    client.batch_execute("update outbox_schema_history set checksum = '1' where version = 3").await.unwrap();
    let (code, found) = states(&database).await;
    assert_eq!((code, found[2].as_str()), (Some(1), "changed"));
    for args in [&["migrate", "status"][..], &["migrate", "up"], &["migrate", "up", "--dry-run"]] {
        let said = outbox_relay(args).env("DATABASE_URL", &database.url).run().await.expect_code(1).stderr;
        assert!(said.contains("V3__exactly_once"), "{said}");
    }
    let mut relay = RelaySettings::new(&database, &parts().kafka).start();
    assert_eq!(relay.wait_for_exit(Duration::from_secs(60)).await, Some(1), "{}", relay.log_text());

    let database = TestDatabase::migrated("newer").await;
    let client = database.connect().await;
    client.batch_execute("insert into outbox_schema_history values (99, 'from_tomorrow', 'soon', '1')").await.unwrap();
    let (code, found) = states(&database).await;
    assert_eq!((code, found.last().unwrap().as_str()), (Some(1), "unknown"));
    let said = outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).run().await.expect_code(1).stderr;
    assert!(said.contains("V99__from_tomorrow"), "{said}");
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    relay.wait_for_log("V99__from_tomorrow").await;
    relay.terminate().await;
}

/// Each is found before the first change, with all others and with a way out.
#[tokio::test]
async fn what_is_in_the_way_of_any_migration_is_named_before_the_first() {
    let database = TestDatabase::empty("in-the-way").await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create table event_handled (id int); create view outbox_current as select 1 as x; create type outbox_audit as enum ('a'); \
             create function outbox_session_key(uuid) returns int language sql return 1; create sequence outbox_events_id_seq; \
             create table shop (id int); create index outbox_held_keys_topic on shop (id)",
        )
        .await
        .unwrap();
    let objects = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    let before: i64 = client.query_one(objects, &[]).await.unwrap().get(0);
    for args in [&["migrate", "up", "--dry-run"][..], &["migrate", "up"]] {
        let said = outbox_relay(args).env("DATABASE_URL", &database.url).run().await.expect_code(1).stderr;
        for name in [
            "table event_handled",
            "view outbox_current",
            "type outbox_audit",
            "function outbox_session_key",
            "sequence outbox_events_id_seq",
            "index outbox_held_keys_topic",
            "outbox.schema",
        ] {
            assert!(said.contains(name), "{name}: {said}");
        }
        assert_eq!(client.query_one(objects, &[]).await.unwrap().get::<_, i64>(0), before, "nothing was changed");
    }
    // The way out.
    let there =
        outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).env("OUTBOX_RELAY_OUTBOX__SCHEMA", "ours");
    there.run().await.expect_code(0);
}

/// What no look can foresee takes everything back.
#[tokio::test]
async fn a_migration_that_fails_leaves_nothing_behind() {
    let database = TestDatabase::empty("half-way").await;
    let client = database.connect().await;
    client
        .batch_execute(
            "create function refuse() returns event_trigger language plpgsql as $$ begin \
               if exists (select 1 from pg_event_trigger_ddl_commands() where object_identity like '%outbox_again') \
               then raise exception 'not here'; end if; end $$; \
             create event trigger refuse on ddl_command_end execute function refuse()",
        )
        .await
        .unwrap();
    let said = outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).run().await.expect_code(1).stderr;
    assert!(said.contains("V7__watermark") && said.contains("nothing was changed"), "{said}");
    let left = "select count(*) from pg_class where relnamespace = 'public'::regnamespace";
    assert_eq!(client.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
    client.batch_execute("drop event trigger refuse").await.unwrap();
    database.migrate().await;
}

/// A transaction of the application that stays open makes the upgrade wait, and nobody behind it.
#[tokio::test]
async fn an_upgrade_that_waits_for_a_transaction_makes_nobody_else_wait() {
    let database = TestDatabase::empty("patient").await;
    let client = database.connect().await;
    make_0_1(&client).await;
    let every = "lock table outbox_events, outbox_shards, outbox_instances, outbox_held_keys, outbox_installation, outbox_pauses, \
        outbox_audit in row exclusive mode";
    let open = database.connect().await;
    open.batch_execute(&format!("begin; {every}")).await.unwrap();
    let migrating = outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).start();
    let asks = "select count(*) from pg_stat_activity where application_name = 'outbox-relay admin' and datname = current_database() \
        and wait_event_type = 'Lock'";
    wait_until("the migration waits for a lock", Duration::from_secs(60), async || {
        let waiting: i64 = client.query_one(asks, &[]).await.map_err(|error| error.to_string())?.get(0);
        if waiting > 0 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    // Whoever waited in line behind it would wait for as long as the transaction is open.
    client.batch_execute("set lock_timeout = '30s'").await.unwrap();
    for n in 0..20 {
        NewRow::new("nowhere", &format!("k{n}"), "{}").insert(&client).await;
        client.batch_execute(&format!("begin; {every}; commit")).await.unwrap();
    }
    open.batch_execute("commit").await.unwrap();
    migrating.finish().await.expect_code(0);
    assert_eq!(counts(&client).await.get("PENDING"), Some(&20));
}

/// The way of people who let no program change their schema.
#[tokio::test]
async fn the_printed_sql_brings_an_outbox_of_0_1_up_to_date() {
    let database = TestDatabase::empty("by-hand-upgrade").await;
    let client = database.connect().await;
    make_0_1(&client).await;
    let printed = outbox_relay(&["migrate", "sql", "--after", LAST_OF_0_1]).run().await.expect_code(0).stdout;
    client.batch_execute(&printed).await.expect("the SQL runs as it is printed");
    let (code, found) = states(&database).await;
    assert!(code == Some(0) && found.iter().all(|state| state == "applied"), "{found:?}");

    let odd =
        outbox_relay(&["migrate", "sql"]).env("OUTBOX_RELAY_OUTBOX__SCHEMA", "My Outbox").run().await.expect_code(0);
    client.batch_execute(&odd.stdout).await.expect("the SQL runs as it is printed");
    let there = outbox_relay(&["migrate", "status"]).env("DATABASE_URL", &database.url);
    there.env("OUTBOX_RELAY_OUTBOX__SCHEMA", "My Outbox").run().await.expect_code(0);
}

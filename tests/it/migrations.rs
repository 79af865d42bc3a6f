//! The schema: made once, however many try at once, and never behind the back of a relay.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::outbox::{counts, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, wait_until};

#[tokio::test]
async fn ten_migrations_at_once_make_one_schema() {
    let database = TestDatabase::empty("ten-migrations").await;
    let migrations = (0..10).map(|_| outbox_relay(&["migrate", "up"]).env("DATABASE_URL", &database.url).run());
    for finished in join_all(migrations).await {
        finished.expect_code(0);
    }
    let client = database.connect().await;
    for table in [
        "outbox_events",
        "outbox_shards",
        "outbox_instances",
        "outbox_held_keys",
        "outbox_audit",
        "outbox_pauses",
        "consumer_partitions",
        "event_handled",
        "product_metrics",
    ] {
        let there = client.query_one("select to_regclass($1::text) is not null", &[&table]).await.unwrap();
        assert!(there.get::<_, bool>(0), "{table} is missing");
    }
    let shards: i64 = client.query_one("select count(*) from outbox_shards", &[]).await.unwrap().get(0);
    assert_eq!(shards, 8);
}

/// A first deployment: every instance may be the first to find no schema.
#[tokio::test]
async fn ten_instances_started_at_once_on_an_empty_database_all_work() {
    let (database, topic) = tokio::join!(TestDatabase::empty("ten-instances"), Topic::create("ten", 6));
    let settings: Vec<_> = (0..10)
        .map(|n| {
            RelaySettings::new(&database, &parts().kafka).instance(&format!("i{n}")).set("database.pool_size", "2")
        })
        .collect();
    let mut relays: Vec<_> = settings.iter().map(RelaySettings::start).collect();
    let client = database.connect().await;
    wait_until("every shard has an owner, and no instance two", Duration::from_secs(60), async || {
        let rows = client
            .query(
                "select count(*), count(distinct owner) from outbox_shards where lease_until > clock_timestamp()",
                &[],
            )
            .await
            .map_err(|error| error.to_string())?;
        let (owned, owners): (i64, i64) = (rows[0].get(0), rows[0].get(1));
        if (owned, owners) == (8, 8) { Ok(()) } else { Err(format!("{owned} shards owned by {owners} instances")) }
    })
    .await;
    for n in 0..100 {
        NewRow::new(&topic.name, &format!("k{n}"), "{}").insert(&client).await;
    }
    assert_eq!(wait_until_published(&database, Duration::from_secs(30)).await, 100);
    for relay in &mut relays {
        assert!(relay.is_running(), "{}", relay.log_text());
        relay.expect_no_error_lines();
    }
    assert_eq!(topic.len().await, 100);
    for mut relay in relays {
        relay.terminate().await;
    }
}

/// Where the relay's role may not change the schema, it says what to do and ends.
#[tokio::test]
async fn a_relay_that_may_not_migrate_says_so_and_ends() {
    let database = TestDatabase::empty("no-migration").await;
    let mut relay = RelaySettings::new(&database, &parts().kafka).set("database.auto_migrate", "false").start();
    assert_eq!(relay.wait_for_exit(Duration::from_secs(20)).await, Some(6), "{}", relay.log_text());
    assert!(relay.log_text().contains("outbox-relay migrate up"), "{}", relay.log_text());
}

#[tokio::test]
async fn a_second_migration_changes_nothing_and_status_tells_what_is_missing() {
    let database = TestDatabase::empty("status").await;
    let call = |args: &[&str]| outbox_relay(args).env("DATABASE_URL", &database.url).run();
    let missing = call(&["migrate", "status", "-o", "json"]).await;
    assert_ne!(missing.code, Some(0), "a schema that is missing is not a success: {missing:?}");
    call(&["migrate", "up", "--dry-run"]).await.expect_code(0);
    let client = database.connect().await;
    let tables = "select count(*) from pg_tables where schemaname = 'public'";
    assert_eq!(client.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), 0, "a dry run writes nothing");
    call(&["migrate", "up"]).await.expect_code(0);
    let topic = Topic::planned("nowhere");
    NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    let before: i64 = client.query_one(tables, &[]).await.unwrap().get(0);
    call(&["migrate", "up"]).await.expect_code(0);
    assert_eq!(client.query_one(tables, &[]).await.unwrap().get::<_, i64>(0), before);
    assert_eq!(counts(&client).await.get("PENDING"), Some(&1), "rows stay");
    let done = call(&["migrate", "status", "-o", "json"]).await.expect_code(0);
    done.json();
}

/// For people who may not let a program change their schema: what `migrate sql` prints does the same.
#[tokio::test]
async fn the_printed_sql_makes_the_same_schema() {
    let (by_us, by_hand) = tokio::join!(TestDatabase::migrated("by-us"), TestDatabase::empty("by-hand"));
    let printed = outbox_relay(&["migrate", "sql"]).run().await.expect_code(0);
    by_hand.connect().await.batch_execute(&printed.stdout).await.expect("the SQL runs as it is printed");
    let mut schemas = Vec::new();
    for database in [&by_us, &by_hand] {
        let client = database.connect().await;
        let rows = client
            .query(
                "select table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '') \
                 from information_schema.columns where table_schema = 'public' \
                 union all select indexdef from pg_indexes where schemaname = 'public' \
                 union all select conname || ' ' || pg_get_constraintdef(oid) from pg_constraint where connamespace = 'public'::regnamespace \
                 order by 1",
                &[],
            )
            .await
            .unwrap();
        let lines: Vec<String> = rows.iter().map(|row| row.get::<_, String>(0)).collect();
        schemas.push(lines.into_iter().filter(|line| !line.contains("schema_history")).collect::<Vec<_>>());
    }
    assert!(schemas[0].len() > 30);
    assert_eq!(schemas[0], schemas[1]);
    // The relay takes it as done.
    outbox_relay(&["migrate", "status"]).env("DATABASE_URL", &by_hand.url).run().await.expect_code(0);
}

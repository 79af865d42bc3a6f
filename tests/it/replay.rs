//! `replay`: copies of published events, behind what waits, each made once whatever is killed in between.

mod interrupted;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::cli::Call;
use crate::support::outbox::{counts, insert_many, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, Record, TestDatabase, Topic, order, outbox_relay, parts::parts, unique, wait_until};

fn replay(database: &TestDatabase, args: &[&str]) -> Call {
    let args = [&["replay", "-o", "json"], args].concat();
    outbox_relay(&args).env("DATABASE_URL", &database.url).env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
}

/// Rows that were published, over ten keys, with ids from 1 on.
async fn fill_published(client: &Client, count: i64) {
    client
        .execute(
            "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, status, published_at) \
             select 'Order', 'k' || n % 10, 'OrderCreatedEvent', 'old-topic', jsonb_build_object('n', n), 'PUBLISHED', now() \
             from generate_series(1, $1::bigint) as n",
            &[&count],
        )
        .await
        .expect("insert");
}

async fn copies(client: &Client) -> i64 {
    client
        .query_one("select count(*) from outbox_events where replay_of is not null", &[])
        .await
        .expect("copies")
        .get(0)
}

/// Every original has one copy, and the copies stand in the order of the originals.
async fn expect_each_copied_once(client: &Client, originals: i64) {
    let rows = client.query("select replay_of from outbox_events where replay_of is not null order by id", &[]).await;
    let found: Vec<i64> = rows.expect("copies").iter().map(|row| row.get(0)).collect();
    assert_eq!(found, (1..=originals).collect::<Vec<_>>(), "replay_of in the order of the copies");
}

/// Promise: replay.
#[tokio::test]
async fn copies_are_published_again_as_they_were_and_name_their_originals() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("replay"), Topic::create("replay", 3));
    let client = database.connect().await;
    let row = |key: &str| {
        NewRow::new(&topic.name, key, r#"{"a": 1.50}"#)
            .text("headers", r#"{"tenant": "x"}"#)
            .text("correlation_id", "saga-1")
            .text("created_at", "2026-05-01T12:00:00.25Z")
    };
    let mut originals = Vec::new();
    for n in 0..20 {
        originals.push(row(&format!("k{}", n % 4)).insert(&client).await);
    }
    let raw = row("k0").without("payload").sql("payload_raw", r"'\x00ff'").insert(&client).await;
    let tombstone = row("k1").without("payload").insert(&client).await;
    originals.extend([raw, tombstone]);
    let mut relay = RelaySettings::new(&database, &parts().kafka).steady().start_ready().await;
    wait_until_published(&database, Duration::from_secs(30)).await;

    let said = replay(&database, &["--topic", &topic.name, "--yes", "--reason", "test", "--ignore-retention"])
        .run()
        .await
        .expect_code(0)
        .json();
    assert_eq!(
        (&said["matched"], &said["copied"], &said["finished"]),
        (&22.into(), &22.into(), &true.into()),
        "{said}"
    );
    wait_until_published(&database, Duration::from_secs(30)).await;
    let records = topic.wait_for_records(44).await;
    let (again, first): (Vec<_>, Vec<_>) =
        records.into_iter().partition(|record| record.header("outbox-replay-of").is_some());
    assert_eq!((first.len(), again.len()), (22, 22));
    let first: HashMap<i64, Record> = first.into_iter().map(|record| (record.outbox_id(), record)).collect();
    let mut by_key: HashMap<String, Vec<i64>> = HashMap::new();
    for copy in &again {
        let original = copy.header("outbox-replay-of").expect("the header").parse::<i64>().expect("decimal");
        let before = &first[&original];
        assert_ne!(copy.outbox_id(), original, "a copy is a row of its own");
        assert_eq!((&copy.key, &copy.value, copy.timestamp_ms), (&before.key, &before.value, before.timestamp_ms));
        for name in ["outbox-event-id", "tenant", "correlation-id", "ce_id", "ce_time", "ce_type"] {
            assert_eq!(copy.header(name), before.header(name), "{name}");
        }
        by_key.entry(copy.key_text().expect("a key").to_owned()).or_default().push(original);
    }
    assert!(by_key.values().all(|ids| ids.is_sorted()), "{by_key:?}");
    relay.terminate().await;

    // A second time: the originals again, and not their copies. By its id, a copy may be copied; it names the first
    // original.
    let dry = replay(&database, &["--topic", &topic.name, "--dry-run", "--ignore-retention"])
        .run()
        .await
        .expect_code(0)
        .json();
    assert_eq!(dry["matched"], 22, "{dry}");
    let copy: i64 = client.query_one("select max(id) from outbox_events", &[]).await.unwrap().get(0);
    replay(&database, &["--id", &copy.to_string(), "--yes", "--ignore-retention"]).run().await.expect_code(0);
    let newest =
        client.query_one("select replay_of, status from outbox_current order by id desc limit 1", &[]).await.unwrap();
    assert_eq!((newest.get::<_, i64>(0), newest.get::<_, String>(1)), (tombstone, "PENDING".to_owned()));
    // The event is months old; its copy has been waiting for seconds.
    let lag = outbox_relay(&["lag", "-o", "json"]).env("DATABASE_URL", &database.url);
    let lag = lag.env("OUTBOX_RELAY_CONSUMER__ENABLED", "false").run().await.expect_code(0).json();
    let waiting = [&lag["outbox"]["oldest_pending_seconds"], &lag["outbox"]["topics"][0]["oldest_pending_seconds"]];
    assert!(waiting.iter().all(|age| age.as_f64().is_some_and(|age| age < 3_600.0)), "{lag}");

    let audit = client.query("select action, reason, details from outbox_audit order by id", &[]).await.unwrap();
    let actions: Vec<String> = audit.iter().map(|row| row.get(0)).collect();
    assert_eq!(actions, ["replay", "replay finished", "replay", "replay finished"]);
    assert_eq!(audit[0].get::<_, Option<String>>(1).as_deref(), Some("test"));
    assert_eq!(audit[1].get::<_, Value>(2)["copied"], 22);
}

#[tokio::test]
async fn filters_choose_what_their_names_say_and_a_dry_run_changes_nothing() {
    let database = TestDatabase::migrated("replay-filters").await;
    let client = database.connect().await;
    let published = |topic: &str, key: &str| {
        NewRow::new(topic, key, "{}")
            .text("status", "PUBLISHED")
            .sql("published_at", "now()")
            .text("created_at", "2026-05-01")
    };
    let a = published("a", "k1").insert(&client).await;
    let b = published("b", "k2").text("event_type", "OrderPaidEvent").insert(&client).await;
    published("b", "k2").text("aggregate_type", "Invoice").text("created_at", "2026-05-03").insert(&client).await;
    published("a", "k1").sql("replay_of", &a.to_string()).insert(&client).await;
    published("a-dlq", "k1").sql("dead_letter_of", &a.to_string()).insert(&client).await;
    published("a", "k9")
        .sql("created_at", "now() - interval '1 hour'")
        .text("partition_key", "k1")
        .insert(&client)
        .await;
    let discarded = published("a", "k1").text("status", "DISCARDED").insert(&client).await;
    published("a", "k1").text("status", "PENDING").insert(&client).await;
    published("a", "k1").text("status", "HELD").insert(&client).await;
    published("a", "k1").text("status", "FAILED").text("last_error", "x").insert(&client).await;
    let before = counts(&client).await;
    for (args, expected) in [
        (&["--from", "2020-01-01"][..], 4),
        (&["--topic", "a"], 2),
        (&["--key", "k1"], 2),
        (&["--aggregate-id", "k1"], 1),
        (&["--aggregate-type", "Invoice"], 1),
        (&["--event-type", "OrderPaidEvent", "--topic", "b"], 1),
        (&["--from", "2026-05-01", "--to", "2026-05-03"], 2),
        (&["--from", "2h"], 1),
        (&["--from", "2026-05-01", "--to", "1m"], 4),
        (&["--id", &format!("{a},{b},{discarded},{a}")], 3),
    ] {
        let found = replay(&database, &[args, &["--dry-run"]].concat()).run().await.expect_code(0).json();
        assert_eq!(found["matched"], expected, "{args:?}: {found}");
        let sum: i64 = found["groups"].as_array().unwrap().iter().map(|group| group["events"].as_i64().unwrap()).sum();
        assert_eq!(sum, expected, "{args:?}: {found}");
    }
    assert_eq!(counts(&client).await, before);
    for table in ["outbox_replays", "outbox_audit"] {
        let rows: i64 = client.query_one(&format!("select count(*) from {table}"), &[]).await.unwrap().get(0);
        assert_eq!(rows, 0, "a dry run wrote to {table}");
    }
    // And what is counted is what is copied.
    let ids = format!("{a},{b},{discarded}");
    let done = replay(&database, &["--id", &ids, "--yes"]).run().await.expect_code(0).json();
    assert_eq!(done["copied"], 3, "{done}");
    let rows = client.query("select replay_of, status from outbox_current where id > $1 and status = 'PENDING' and replay_of is not null order by id", &[&discarded]).await.unwrap();
    let made: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(made, [a, b, discarded]);
}

/// Rows of half a megabyte: a portion ends by its bytes, and the next one goes on behind its last copy.
#[tokio::test]
async fn a_portion_of_large_rows_is_cut_and_nothing_is_left_out() {
    let database = TestDatabase::migrated("replay-large").await;
    let client = database.connect().await;
    client
        .batch_execute(
            "alter table outbox_events alter column payload_raw set storage external; \
             insert into outbox_events (event_type, topic, payload_raw, status, published_at) \
             select 'Large', 't', convert_to(repeat('x', 500000), 'UTF8'), 'PUBLISHED', now() from generate_series(1, 100)",
        )
        .await
        .unwrap();
    let done = replay(&database, &["--event-type", "Large", "--yes"]).run().await.expect_code(0).json();
    assert_eq!(done["copied"], 100);
    expect_each_copied_once(&client, 100).await;
    let transactions: i64 = client
        .query_one("select count(distinct xmin::text) from outbox_events where replay_of is not null", &[])
        .await
        .unwrap()
        .get(0);
    assert!(transactions > 2, "50 MB in {transactions} transactions");
}

/// Live events of the same keys all the while: order per key holds for each of the two, and a consumer that knows the
/// events folds none of them again.
///
/// Promise: replay.
#[tokio::test]
async fn a_replay_under_load_keeps_order_and_counts_nothing_twice() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("replay-load"), Topic::create("replay-load", 3));
    let client = database.connect().await;
    let file = format!("[consumer]\ngroup = \"{}\"\ntopics = [\"{}\"]\n", unique("metrics"), topic.name);
    let settings = RelaySettings::new(&database, &parts().kafka).file(&file).only("relay,consumer,admin").steady();
    let mut relay = settings.start_ready().await;
    let insert = |count: i64| {
        let (client, topic) = (&client, &topic.name);
        async move {
            client
                .execute(
                    "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload) \
                     select 'Product', n % 20, 'LikeAddedEvent', $1, jsonb_build_object('productId', n % 20, 'userId', n) \
                     from generate_series(1, $2::bigint) as n",
                    &[&topic, &count],
                )
                .await
                .expect("insert");
        }
    };
    insert(2_000).await;
    wait_until_published(&database, Duration::from_secs(60)).await;
    let copying = replay(&database, &["--topic", &topic.name, "--rate", "1000", "--yes"]).start();
    wait_until("it copies", Duration::from_secs(30), async || {
        let made = copies(&client).await;
        if made >= 100 { Ok(()) } else { Err(format!("{made}")) }
    })
    .await;
    let mut live = 0;
    while copies(&client).await < 1_900 {
        insert(100).await;
        live += 100;
    }
    copying.finish().await.expect_code(0);
    wait_until_published(&database, Duration::from_secs(60)).await;
    // A copy and a live event of one key that are inserted at the same moment may take either place, as those of any
    // two writers that do not take turns. Copies are in order among themselves, and so are live events.
    let rows = client.query("select aggregate_id, id, replay_of is not null from outbox_events order by id", &[]).await;
    let mut committed: HashMap<(String, bool), Vec<i64>> = HashMap::new();
    for row in rows.unwrap() {
        committed.entry((row.get(0), row.get(2))).or_default().push(row.get(1));
    }
    let mut sent: HashMap<(String, bool), Vec<i64>> = HashMap::new();
    for record in topic.records().await {
        let key = record.key_text().expect("a key").to_owned();
        sent.entry((key, record.header("outbox-replay-of").is_some())).or_default().push(record.outbox_id());
    }
    order::check(&committed, &sent).expect_kept().expect_no_repeats();
    // The copies of a key stand in the order of their originals.
    let rows = client
        .query("select aggregate_id, replay_of from outbox_events where replay_of is not null order by id", &[])
        .await;
    let mut originals: HashMap<String, Vec<i64>> = HashMap::new();
    for row in rows.unwrap() {
        originals.entry(row.get(0)).or_default().push(row.get(1));
    }
    assert!(originals.values().all(|ids| ids.is_sorted()));

    let likes = async |records: i64| {
        wait_until("the consumer has read all", Duration::from_secs(60), async || {
            let read = "select coalesce(sum(next_offset), 0)::bigint from consumer_partitions";
            let read: i64 = client.query_one(read, &[]).await.unwrap().get(0);
            if read == records { Ok(()) } else { Err(format!("{read} of {records}")) }
        })
        .await;
        let sum = "select coalesce(sum(like_count), 0)::bigint from product_metrics";
        client.query_one(sum, &[]).await.unwrap().get::<_, i64>(0)
    };
    assert_eq!(likes(topic.len().await).await, 2_000 + live, "copies were folded");

    // With new ids they are new events for everybody.
    let key = ["--key", "7", "--new-ids", "--yes"];
    let done = replay(&database, &key).run().await.expect_code(0).json();
    let copied = done["copied"].as_i64().unwrap();
    assert_eq!(copied, (2_000 + live) / 20, "the live ones of the key are published by now");
    wait_until_published(&database, Duration::from_secs(60)).await;
    assert_eq!(likes(topic.len().await).await, 2_000 + live + copied);
    relay.terminate().await;
}

#[tokio::test]
async fn bad_input_is_told_with_a_hint_and_copies_nothing() {
    let database = TestDatabase::migrated("replay-bad").await;
    let client = database.connect().await;
    fill_published(&client, 5).await;
    insert_many(&client, "t", 1, 1).await;
    let letter = NewRow::new("t-dlq", "k", "{}")
        .text("status", "PUBLISHED")
        .sql("published_at", "now()")
        .sql("dead_letter_of", "1");
    let letter = letter.insert(&client).await;
    let missing = Topic::planned("missing");
    for (args, code, says) in [
        (&["--id", "999999"][..], 6, &["OR-U002", "999999"][..]),
        (&["--id", "1,999999,2"], 6, &["OR-U002", "999999"]),
        (&["--id", "6"], 6, &["OR-D001", "PENDING"]),
        (&["--id", &letter.to_string()], 6, &["OR-D001", "dlq redrive"]),
        (&["--id", "one"], 2, &["--id"]),
        (&["--id", "0"], 2, &["--id"]),
        (&["--id", "1", "--from", "1h"], 2, &["--from"]),
        (&["--id", "1", "--resume", "0198f2c4-0000-7000-8000-000000000000"], 2, &["--resume"]),
        (&["--resume", "0198f2c4-0000-7000-8000-000000000000"], 6, &["OR-U002", "no replay is unfinished"]),
        (&["--resume", "17"], 2, &["--resume"]),
        (&[], 2, &["--from"]),
        (&["--to-topic", "t"], 2, &["--from"]),
        (&["--from", "yesterday"], 2, &["not a time"]),
        (&["--from", "2026-05-02", "--to", "2026-05-02"], 2, &["OR-U001", "not before"]),
        (&["--topic", "old-topic", "--rate", "0"], 2, &["--rate"]),
        (&["--topic", "nobody"], 6, &["OR-U002", "no event matches", "PUBLISHED"]),
        (&["--topic", "nobody", "--dry-run"], 6, &["OR-U002"]),
        (&["--topic", "old-topic", "--to-topic", "old topic"], 2, &["OR-U001", "249"]),
        (&["--topic", "old-topic", "--to-topic", &missing.name], 6, &["OR-U002", &missing.name]),
    ] {
        let finished = replay(&database, &[args, &["--yes"]].concat()).run().await.expect_code(code);
        for part in says {
            assert!(finished.stderr.contains(part), "{args:?} does not say {part}:\n{}", finished.stderr);
        }
    }
    // Nobody can be asked, and nobody said yes.
    let asked = replay(&database, &["--topic", "old-topic"]).run().await.expect_code(2);
    assert!(asked.stderr.contains("--yes") && asked.stderr.contains("--dry-run"), "{}", asked.stderr);

    let role = unique("reader").replace('-', "_");
    client
        .batch_execute(&format!(
            "create role {role} login password 'x'; grant select on all tables in schema public to {role}; \
             grant insert, update on outbox_replays to {role}; grant insert on outbox_audit to {role}"
        ))
        .await
        .unwrap();
    let (_, rest) = database.url.split_once('@').expect("a user in the URL");
    let poor = TestDatabase { url: format!("postgres://{role}:x@{rest}") };
    replay(&poor, &["--topic", "old-topic", "--dry-run"]).run().await.expect_code(0);
    let refused = replay(&poor, &["--topic", "old-topic", "--yes"]).run().await.expect_code(1);
    assert!(
        refused.stderr.contains("OR-P003") && refused.stderr.contains("insert on outbox_events"),
        "{}",
        refused.stderr
    );
    assert_eq!(copies(&client).await, 0);
    let begun: i64 = client.query_one("select count(*) from outbox_replays", &[]).await.unwrap().get(0);
    assert_eq!(begun, 0, "nothing unfinished is left behind");
}

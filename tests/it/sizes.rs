//! Rows of every size that PostgreSQL can store: memory and time follow what is really read, and a row that is too
//! large fails alone.

use std::collections::HashMap;
use std::time::Duration;

use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::outbox::{counts, insert_many, row, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::statements::statement;
use crate::support::{NewRow, Relay, TestDatabase, Topic, order, outbox_relay, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(180);

/// Four batches of 2 MiB, six times over, the buffer of the client, and the process itself.
const MEMORY: u64 = 200_000_000;

/// An array of numbers that take 16 bytes each and print 131,072 digits.
fn huge_numbers(count: u32) -> String {
    format!("(select jsonb_agg('1e131071'::numeric) from generate_series(1, {count}))")
}

async fn wait_for_count(client: &Client, status: &str, expected: i64) {
    wait_until(&format!("{expected} rows are {status}"), PATIENCE, async || {
        let counts = counts(client).await;
        if counts.get(status) == Some(&expected) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

/// Every row that is PUBLISHED is in the topic once, in the order of its key, and no other is.
async fn expect_order(client: &Client, topic: &Topic) {
    let published =
        "select coalesce(partition_key, aggregate_id), id from outbox_current where status = 'PUBLISHED' order by id";
    let mut committed: HashMap<String, Vec<i64>> = HashMap::new();
    for row in client.query(published, &[]).await.expect("the rows") {
        committed.entry(row.get(0)).or_default().push(row.get(1));
    }
    order::check(&committed, &sent_ids(&topic.records().await)).expect_kept().expect_no_repeats();
}

async fn database_and_topic(name: &str) -> (TestDatabase, Client, Topic) {
    let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 3));
    let client = database.connect().await;
    (database, client, topic)
}

async fn start(database: &TestDatabase) -> Relay {
    RelaySettings::new(database, &parts().kafka).steady().start_ready().await
}

/// Rows of a few hundred bytes that print more than a megabyte, and others that print just less than they may.
///
/// Promise: memory.
#[tokio::test]
async fn memory_is_bounded_whatever_rows_print() {
    let (database, client, topic) = database_and_topic("prints").await;
    let insert = async |key: &str, payload: &str, count: i64| {
        let insert = format!(
            "insert into outbox_events (aggregate_id, event_type, topic, payload) \
             select '{key}-' || n, 'E', $1, p from generate_series(1, $2::bigint) n, (select {payload} as p offset 0) p"
        );
        client.execute(&insert, &[&topic.name, &count]).await.expect("rows");
    };
    insert("too-large", &huge_numbers(10), 1_000).await;
    insert("just-fits", &huge_numbers(6), 200).await;
    insert("far-too-large", &huge_numbers(80), 120).await;
    insert_many(&client, &topic.name, 50, 1_000).await;
    let relay = start(&database).await;
    wait_for_count(&client, "PUBLISHED", 1_200).await;
    wait_for_count(&client, "FAILED", 1_120).await;
    let peak = relay.peak_bytes();
    assert!(peak < MEMORY, "the relay took {} MB", peak / 1_000_000);
    expect_order(&client, &topic).await;
    let reasons = "select count(*) from outbox_events where status = 'FAILED' and last_error not like 'too-large: %'";
    assert_eq!(client.query_one(reasons, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// Large in each column that can be, or impossible to print: the row fails, its key waits, and it is not loaded.
///
/// Promise: memory.
#[tokio::test]
async fn a_row_that_is_too_large_fails_whichever_column_is() {
    let (database, client, topic) = database_and_topic("columns").await;
    let text = "repeat('x', 30000000)";
    let mut bad: Vec<(&str, NewRow)> = Vec::new();
    let good = |key: &str| NewRow::new(&topic.name, key, r#"{"good": true}"#);
    for column in ["event_type", "aggregate_type", "topic", "correlation_id", "causation_id", "source", "traceparent"] {
        bad.push((column, good(column).sql(column, text)));
    }
    bad.push(("aggregate_id", good("aggregate_id").text("partition_key", "aggregate_id").sql("aggregate_id", text)));
    let raw = good("payload_raw").without("payload").sql("payload_raw", &format!("convert_to({text}, 'UTF8')"));
    bad.push(("payload_raw", raw));
    for (key, value) in [
        ("text", format!("jsonb_build_object('pad', {text})")),
        ("random", "(select jsonb_agg(md5(n::text)) from generate_series(1, 100000) n)".to_owned()),
        ("huge", huge_numbers(10)),
        // More than 1 GB, which PostgreSQL cannot print at all.
        ("unprintable", "(select jsonb_agg(('1e' || 131071 - n)::numeric) from generate_series(1, 9000) n)".to_owned()),
        (
            "zeros",
            "(select jsonb_agg(('1.' || repeat('0', 16383))::numeric) from generate_series(1, 100000) n)".to_owned(),
        ),
        (
            "deep",
            "(select jsonb_build_array((repeat('[', 12000) || repeat(']', 12000))::jsonb, jsonb_agg(1e131071)) \
              from generate_series(1, 9000) n)"
                .to_owned(),
        ),
    ] {
        let key: &'static str = Box::leak(format!("payload-{key}").into_boxed_str());
        bad.push((key, good(key).sql("payload", &value)));
        if key.ends_with("text") || key.ends_with("huge") {
            let key: &'static str = Box::leak(format!("headers-{key}").into_boxed_str());
            bad.push((key, good(key).sql("headers", &format!("jsonb_build_object('h', {value})"))));
        }
    }
    let mut cases = Vec::new();
    for (key, bad) in bad {
        let before = good(key).insert(&client).await;
        let id = bad.insert(&client).await;
        cases.push((key, before, id, good(key).insert(&client).await));
    }
    insert_many(&client, &topic.name, 20, 100).await;
    let relay = start(&database).await;
    wait_for_count(&client, "PUBLISHED", 100 + cases.len() as i64).await;
    for (key, before, id, after) in cases {
        wait_for_status(&client, before, "PUBLISHED").await;
        let failed = wait_for_status(&client, id, "FAILED").await;
        let error = failed.last_error.expect("a FAILED row says why");
        assert!(error.starts_with("too-large: ") && error.len() < 500, "{key}: {error}");
        wait_for_status(&client, after, "HELD").await;
    }
    let peak = relay.peak_bytes();
    assert!(peak < MEMORY, "the relay took {} MB", peak / 1_000_000);
    assert!(relay.log_text().len() < 1_000_000);
}

/// Extreme values that are legal: each row is read, and ends one way or the other.
#[tokio::test]
async fn every_value_that_can_be_stored_is_read() {
    let (database, client, topic) = database_and_topic("extremes").await;
    let mut ids = Vec::new();
    for (column, value) in [
        ("created_at", "'infinity'"),
        ("created_at", "'-infinity'"),
        ("created_at", "'294276-12-31 23:59:59.999999+00'"),
        ("created_at", "'4713-01-01 00:00:00+00 BC'"),
        ("available_at", "'-infinity'"),
        ("available_at", "'4713-01-01 00:00:00+00 BC'"),
        ("event_version", "2147483647"),
        ("event_version", "-2147483648"),
        ("retry_count", "2147483646"),
        ("payload", "'null'"),
        ("payload", "'\"\"'"),
        ("payload", "'1e131071'"),
        ("payload", "('1.' || repeat('0', 16383))::jsonb"),
        ("payload", "(repeat('[', 12000) || repeat(']', 12000))::jsonb"),
        ("payload", "null"),
        ("headers", "'{}'"),
        ("headers", "'null'"),
        ("headers", "'{\"a\": 1e131071}'"),
        ("event_type", "''"),
        ("aggregate_type", "''"),
        ("partition_key", "''"),
        ("correlation_id", "E'\\x01\\x7f'"),
        ("traceparent", "''"),
        ("event_id", "'00000000-0000-0000-0000-000000000000'"),
    ] {
        let row = NewRow::new(&topic.name, &format!("{column} {}", ids.len()), "{}").sql(column, value);
        ids.push((column, value, row.insert(&client).await));
    }
    let raw = NewRow::new(&topic.name, "empty", "{}").without("payload").sql("payload_raw", "''");
    ids.push(("payload_raw", "''", raw.insert(&client).await));
    let keyless = NewRow::new(&topic.name, "", "{}").without("aggregate_id").without("aggregate_type");
    ids.push(("aggregate_id", "null", keyless.insert(&client).await));
    // They wait for ever.
    let never = NewRow::new(&topic.name, "never", "{}").sql("available_at", "'infinity'").insert(&client).await;
    let far = NewRow::new(&topic.name, "far", "{}").sql("available_at", "'294276-12-31'").insert(&client).await;
    insert_many(&client, &topic.name, 20, 100).await;
    let relay = start(&database).await;
    for (column, value, id) in ids {
        wait_until(&format!("{column} = {value} is decided"), PATIENCE, async || {
            let row = row(&client, id).await;
            if ["PUBLISHED", "FAILED"].contains(&&*row.status) { Ok(()) } else { Err(format!("{row:?}")) }
        })
        .await;
    }
    wait_for_status(&client, never, "HELD").await;
    wait_for_status(&client, far, "HELD").await;
    relay.expect_no_error_lines();
}

/// What a statement sends ends soon after the bytes that it may have, and with it what it prints.
///
/// Promise: memory.
#[tokio::test]
async fn a_claim_neither_prints_nor_sends_more_than_its_bytes() {
    let database = TestDatabase::migrated("bytes").await;
    let client = database.connect().await;
    // 256 rows of 900 kB: incompressible as text and as bytes, and numbers that print as much.
    for (key, column, value) in [
        ("a", "payload", "jsonb_build_object('pad', repeat('x', 900000))"),
        ("b", "payload", &*huge_numbers(6)),
        ("c", "payload_raw", "convert_to(repeat('x', 900000), 'UTF8')"),
        ("d", "headers", "jsonb_build_object('pad', repeat('x', 900000))"),
        ("e", "source", "repeat('x', 900000)"),
    ] {
        client.batch_execute("truncate outbox_events").await.unwrap();
        let insert = format!(
            "insert into outbox_events (aggregate_id, event_type, topic, {column}) \
             select '{key}', 'E', 't', v from generate_series(1, 256), (select {value} as v offset 0) v"
        );
        client.batch_execute(&insert).await.unwrap();
        let ids = client.query("select id from outbox_events order by id", &[]).await.unwrap();
        let ids: Vec<i64> = ids.iter().map(|row| row.get(0)).collect();
        let shard: i16 = client.query_one("select shard from outbox_events limit 1", &[]).await.unwrap().get(0);
        let (low, ceilings, ahead): (_, _, Vec<i64>) = (vec![0_i64], vec![i64::MAX], Vec::new());
        let (record, most, uncounted, rows, last) = (1_000_000_i64, 2_097_152_i64, 16_384_i32, 256_i64, 0_i64);
        let shards = vec![shard];
        let common: [&(dyn tokio_postgres::types::ToSql + Sync); 7] =
            [&record, &most, &uncounted, &shards, &low, &ceilings, &rows];
        let mut with_ahead = common.to_vec();
        with_ahead.extend([&ahead as &(dyn tokio_postgres::types::ToSql + Sync), &last]);
        let by_id: [&(dyn tokio_postgres::types::ToSql + Sync); 5] = [&record, &most, &uncounted, &ids, &false];
        for (file, parameters) in
            [("claim", &common[..]), ("claim_watermark", &with_ahead[..]), ("claim_manifest", &by_id[..])]
        {
            let statement = statement(&format!("outbox/claim/sql/{file}.sql"));
            let found = client.query(&statement, parameters).await.unwrap_or_else(|error| panic!("{file}: {error:?}"));
            let whole = found.iter().take_while(|row| row.get::<_, Option<i64>>("takes").is_none());
            let bytes: usize = found.iter().map(tokio_postgres::Row::raw_size_bytes).sum();
            // The first two do not fill it, the third one does.
            let counted: Vec<i64> = found.iter().map(|row| row.get::<_, Option<i64>>("takes").unwrap_or(0)).collect();
            assert_eq!(found.len(), 256, "{file}: {column}");
            assert!((2..=3).contains(&whole.count()) || counted[..2] != [0, 0], "{file}: {column}: {counted:?}");
            assert!(bytes < 3_000_000, "{file}: {column}: {bytes} bytes were sent");
            assert!(counted[3..].iter().all(|takes| *takes == -1), "{file}: {column}: {counted:?}");
        }
    }
}

/// A table of the application refers to events: the lock of its foreign key keeps no event from being sent, in order.
///
/// Promise: key-order.
#[tokio::test]
async fn a_foreign_key_to_the_outbox_reorders_nothing() {
    let (database, client, topic) = database_and_topic("foreign-key").await;
    client.batch_execute("create table notes (event bigint references outbox_events (id))").await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(NewRow::new(&topic.name, "k", "{}").insert(&client).await);
    }
    let mut application = database.connect().await;
    let open = application.transaction().await.unwrap();
    open.execute("insert into notes values ($1), ($2)", &[&ids[0], &ids[4]]).await.unwrap();
    let _relay = start(&database).await;
    wait_for_count(&client, "PUBLISHED", 10).await;
    assert_eq!(sent_ids(&topic.records().await)["k"], ids);
    open.commit().await.unwrap();
}

/// Somebody keeps a row locked, or has changed it in a transaction that is open: its key waits and no other does, even
/// if the key fills whole batches.
///
/// Promise: key-order.
#[tokio::test]
async fn a_row_that_somebody_has_locked_keeps_its_key_in_order() {
    for lock in
        ["select id from outbox_events where id = $1 for update", "update outbox_events set source = 's' where id = $1"]
    {
        let (database, client, topic) = database_and_topic("locked").await;
        let settings = RelaySettings::new(&database, &parts().kafka)
            .steady()
            .set("relay.tracking", "rows")
            .set("relay.batch_rows", "5");
        let good = |key: &str| NewRow::new(&topic.name, key, "{}");
        // In one shard, so that the others are behind it.
        let first = good("k").insert(&client).await;
        for _ in 0..20 {
            good("k").insert(&client).await;
        }
        let twin: String = client
            .query_one(
                "select 'o' || n from generate_series(1, 1000) n where outbox_shard_of('o' || n, 0) = outbox_shard_of('k', 0) limit 1",
                &[],
            )
            .await
            .unwrap()
            .get(0);
        let mut others = Vec::new();
        for _ in 0..10 {
            others.push(good(&twin).insert(&client).await);
        }
        let mut somebody = database.connect().await;
        let open = somebody.transaction().await.unwrap();
        open.query(lock, &[&first]).await.unwrap();
        let relay = settings.start_ready().await;
        for id in &others {
            wait_for_status(&client, *id, "PUBLISHED").await;
        }
        assert_eq!(topic.len().await, others.len() as i64, "nothing of the key goes before the locked row");
        open.commit().await.unwrap();
        wait_for_count(&client, "PUBLISHED", 31).await;
        expect_order(&client, &topic).await;
        relay.expect_no_error_lines();
    }
}

/// Whatever a row holds, commands that look at it stay small.
#[tokio::test]
async fn commands_show_a_row_of_any_size() {
    let (database, client, topic) = database_and_topic("shown").await;
    let row = NewRow::new(&topic.name, "k", "{}").text("event_id", "00000000-0000-0000-0000-000000000001");
    let mut ids = Vec::new();
    for (column, value) in [
        ("payload", "(select jsonb_agg(('1e' || 131071 - n)::numeric) from generate_series(1, 9000) n)"),
        ("payload", "(repeat('[', 12000) || repeat(']', 12000))::jsonb"),
        ("headers", "jsonb_build_object('h', repeat('x', 50000000))"),
        ("topic", "repeat('x', 50000000)"),
        ("event_type", "repeat('x', 50000000)"),
        ("correlation_id", "repeat('x', 50000000)"),
        ("last_error", "repeat('x', 50000000)"),
    ] {
        ids.push(row.clone().sql(column, value).insert(&client).await);
    }
    let raw = row.clone().without("payload").sql("payload_raw", "convert_to(repeat('x', 50000000), 'UTF8')");
    ids.push(raw.insert(&client).await);
    let run = async |args: &[&str]| {
        let finished = outbox_relay(args).env("DATABASE_URL", &database.url).run().await.expect_code(0);
        assert!(finished.stdout.len() < 4_000_000, "{args:?} prints {} bytes", finished.stdout.len());
        finished.stdout
    };
    for format in ["json", "table"] {
        assert!(run(&["events", "ls", "-o", format]).await.contains("..."));
        run(&["events", "show", "00000000-0000-0000-0000-000000000001", "-o", format]).await;
        run(&["events", "trace", "00000000-0000-0000-0000-000000000001", "-o", format]).await;
    }
    for (id, omitted) in [(ids[0], "payload"), (ids[2], "headers"), (ids[7], "payload")] {
        let shown: serde_json::Value =
            serde_json::from_str(&run(&["events", "show", &id.to_string(), "-o", "json"]).await).expect("JSON");
        assert_eq!(shown[0]["omitted"][0], omitted);
        assert!(run(&["events", "show", &id.to_string()]).await.contains("not shown"));
    }
}

//! Events that do not fit, projections that do not work, and batches that take too long.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;

use super::{counts, new};
use crate::projection::*;

/// Nothing that does not fit is taken for 0, and nothing around it waits.
#[tokio::test]
async fn events_that_do_not_fit_are_parked_and_the_rest_is_folded() {
    let bench = StoreBench::product_metrics("poison").await;
    let nul = "\"\\u0000\"";
    let line = |line: &str| format!(r#"{{"items": [{{"productId": 1, "quantity": 1, "amount": 1}}, {line}]}}"#);
    let bad: Vec<(&str, String, &str)> = vec![
        ("LikeAddedEvent", r#"{"productId": "1"}"#.to_owned(), "productId is missing or not an integer"),
        ("LikeAddedEvent", r#"{"productId": 1.5}"#.to_owned(), "productId"),
        ("LikeRemovedEvent", r#"{"productId": 9223372036854775808}"#.to_owned(), "productId"),
        ("ProductViewEvent", r#"{"product": 1}"#.to_owned(), "productId"),
        ("ProductViewEvent", "[1]".to_owned(), "productId"),
        ("ProductViewEvent", "null".to_owned(), "productId"),
        ("OrderCreatedEvent", "{}".to_owned(), "items is missing"),
        ("OrderCreatedEvent", r#"{"items": []}"#.to_owned(), "items is missing"),
        ("OrderCreatedEvent", r#"{"items": {"productId": 1}}"#.to_owned(), "items is missing"),
        ("OrderCreatedEvent", line(r#"{"productId": 2, "quantity": "3", "amount": 1}"#), "quantity"),
        ("OrderCreatedEvent", line(r#"{"productId": 2, "quantity": 0, "amount": 1}"#), "quantity"),
        ("OrderCancelledEvent", line(r#"{"productId": 2, "quantity": 1, "amount": "1"}"#), "amount"),
        ("OrderCancelledEvent", line(r#"{"productId": 2, "quantity": 1, "amount": -1}"#), "amount"),
        ("LikeAddedEvent", "no json".to_owned(), "the value is not JSON"),
        // JSON, but not for PostgreSQL: found by halving.
        ("LikeAddedEvent", format!(r#"{{"productId": 1, "note": {nul}}}"#), "22P05"),
        ("LikeAddedEvent", r#"{"productId": 1, "note": 1e999999}"#.to_owned(), "22003"),
    ];
    let mut records = Vec::new();
    for (event_type, value, _) in &bad {
        let offset = i64::try_from(records.len()).unwrap();
        records.push(new(offset, "LikeAddedEvent", r#"{"productId": 7}"#));
        records.push(new(offset + 1, event_type, value));
    }
    let tombstone = i64::try_from(records.len()).unwrap();
    let mut deleted = new(tombstone, "LikeAddedEvent", "");
    deleted.value = None;
    records.push(deleted);
    assert_eq!(bench.fold_all(&records).await, counts(16, 0, 0, 17));
    assert_eq!(product_metrics(&bench.client).await, ["7 16 0 0 0"]);
    let parked = bench.parked().await;
    let expected: Vec<(i64, &str)> = bad
        .iter()
        .enumerate()
        .map(|(n, (_, _, why))| (2 * n as i64 + 1, *why))
        .chain([(tombstone, "productId")])
        .collect();
    assert_eq!(parked.len(), expected.len(), "{parked:#?}");
    for ((offset, reason), (expected_offset, why)) in parked.iter().zip(expected) {
        assert!(
            *offset == expected_offset && reason.contains(why),
            "{offset}: {reason}; expected {expected_offset}: {why}"
        );
    }
    // A redelivery changes nothing.
    bench.client.batch_execute("update consumer_partitions set next_offset = 0").await.unwrap();
    assert_eq!(bench.fold_all(&records).await, counts(0, 33, 0, 0));
    assert_eq!(bench.parked().await, parked);
}

#[tokio::test]
async fn a_parked_event_is_kept_whole() {
    let bench = StoreBench::product_metrics("whole").await;
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let headers = vec![
        (b"ce_type".to_vec(), text("LikeAddedEvent")),
        (b"twice".to_vec(), text("a")),
        (b"twice".to_vec(), Some(vec![0, 255])),
        (b"none".to_vec(), None),
    ];
    let (key, value) = (vec![0, 1, 255], vec![0xff, 0xfe, 0]);
    let bad = Record::new(TOPIC, 0, 5, Some(1_900_000_000_123), headers, Some(key.clone()), Some(value.clone()));
    assert_eq!(bench.fold_all(&[bad]).await, counts(0, 0, 0, 1));
    let sql = "select key, value, headers::text, event_type, topic, partition, \"offset\", consumer_group, \
               to_char(recorded_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.MS'), error from consumer_parked";
    let row = bench.client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, Vec<u8>>(0), row.get::<_, Vec<u8>>(1)), (key, value));
    let expected = r#"[["ce_type", "LikeAddedEvent"], ["twice", "a"], ["twice", {"hex": "00ff"}], ["none", null]]"#;
    assert_eq!(row.get::<_, &str>(2), expected);
    assert_eq!((row.get::<_, &str>(3), row.get::<_, &str>(4), row.get::<_, i32>(5)), ("LikeAddedEvent", TOPIC, 0));
    assert_eq!((row.get::<_, i64>(6), row.get::<_, &str>(7)), (5, "metrics"));
    assert_eq!(row.get::<_, &str>(8), "2030-03-17 17:46:40.123");
    assert_eq!(row.get::<_, &str>(9), "the value is not JSON: it is not UTF-8");
}

#[tokio::test]
async fn an_event_that_breaks_a_constraint_is_found_and_parked() {
    let sql = "insert into seen (name, n) select payload ->> 'name', (payload ->> 'n')::int from new_events";
    let all = projection("seen", &[], sql);
    let bench =
        StoreBench::new("constraint", vec![all], "create table seen (name text primary key, n int check (n < 100))")
            .await;
    let mut records: Vec<Record> =
        (0..200).map(|n| new(n, "X", &format!(r#"{{"name": "n{n}", "n": {}}}"#, n % 100))).collect();
    records[30] = new(30, "X", r#"{"name": "n30", "n": 100}"#); // check
    records[31] = new(31, "X", r#"{"name": "n29", "n": 1}"#); // primary key
    records[150] = new(150, "X", r#"{"name": "n150", "n": "secret"}"#); // cast
    assert_eq!(bench.fold_all(&records).await, counts(197, 0, 0, 3));
    assert_eq!(number(&bench.client, "select count(*) from seen").await, 197);
    let parked = bench.parked().await;
    let codes = [(30, "23514"), (31, "23505"), (150, "22P02")];
    assert_eq!(parked.len(), 3);
    for ((offset, reason), (expected, code)) in parked.iter().zip(codes) {
        assert!(
            *offset == expected && reason.starts_with("projection seen: ") && reason.contains(code),
            "{offset} {reason}"
        );
    }
}

/// Either all projections have an event or none has.
#[tokio::test]
async fn what_one_projection_refuses_no_other_keeps() {
    let keep = projection("copies", &[], "insert into copies select \"offset\" from new_events");
    let refuse = projection("refuses", &["Bad"], "select ordinal, 'bad for ' || topic from new_events");
    let bench = StoreBench::new("refuse", vec![keep, refuse], "create table copies (n bigint)").await;
    let records = [new(0, "Good", "{}"), new(1, "Bad", "{}"), new(2, "Good", "{}")];
    assert_eq!(bench.fold_all(&records).await, counts(2, 0, 0, 1));
    assert_eq!(number(&bench.client, "select sum(n)::bigint from copies").await, 2);
    assert_eq!(bench.parked().await, [(1, "projection refuses: bad for catalog-events".to_owned())]);
}

/// A broken statement blames no event: nothing is parked, nothing is passed over.
#[tokio::test]
async fn a_projection_that_does_not_work_stops_the_partition_and_parks_nothing() {
    let copies = projection("copies", &["LikeAddedEvent"], "insert into copies select \"offset\" from new_events");
    let bench =
        StoreBench::new("broken", vec![Projection::product_metrics(), copies], "create table copies (n bigint)").await;
    let epoch = bench.take().await;
    assert!(matches!(bench.fold(epoch, &likes(0..2)).await.end, End::Done));
    bench.client.batch_execute("drop table copies").await.unwrap();
    let records = likes(2..50);
    let folded = bench.fold(epoch, &records).await;
    let End::Failed(error) = &folded.end else { panic!("{folded:?}") };
    assert!(error.to_string().contains("copies") && folded.next_offset.is_none(), "{error}");
    assert_eq!((bench.parked().await.len(), product_metrics(&bench.client).await), (0, vec!["1 2 0 0 0".to_owned()]));
    bench.client.batch_execute("create table copies (n bigint)").await.unwrap();
    assert_eq!(bench.fold(epoch, &records).await.counts, counts(48, 0, 0, 0));
    assert_eq!(product_metrics(&bench.client).await, ["1 50 0 0 0"]);
}

#[tokio::test]
async fn a_made_up_ordinal_stops_the_partition_instead_of_looping() {
    let wrong = projection("wrong", &[], "select 77, 'x' from new_events");
    let bench = StoreBench::new("ordinal", vec![wrong], "").await;
    let folded = bench.fold(bench.take().await, &likes(0..2)).await;
    let End::Failed(error) = folded.end else { panic!("{folded:?}") };
    assert!(error.to_string().contains("77"), "{error}");
}

#[tokio::test]
async fn a_batch_that_takes_too_long_is_folded_in_smaller_parts() {
    // Too long is more than eight events: then it waits, and not as for a lock.
    let slow = projection(
        "slow",
        &[],
        "insert into copies select ordinal from new_events \
         where case when (select count(*) from new_events) > 8 then for_ever() else true end",
    );
    let tables = "create table copies (n int); \
        create function for_ever() returns boolean language plpgsql set lock_timeout = 0 as \
          $$ begin perform pg_advisory_lock(1); return true; end $$";
    let bench = StoreBench::new("slow", vec![slow], tables).await;
    bench.client.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    // Eight events must not be too slow, whatever the machine does.
    let settings = DatabaseConfig {
        url: Secret::new(&bench.test.url),
        statement_timeout: Duration::from_secs(5),
        ..DatabaseConfig::default()
    };
    let database = Database::new(&settings).unwrap();
    let projections = bench.store.projections().to_vec();
    let store = Store::new(&database, "metrics".to_owned(), projections, Metrics::new());
    let epoch = bench.take().await;
    let folded = fold_batch(&store, &bench.place, epoch, 0, &likes(0..18)).await;
    assert!(matches!(folded.end, End::Done), "{folded:?}");
    assert_eq!(folded.counts, counts(18, 0, 0, 0));
    assert_eq!(number(&bench.client, "select count(*) from copies").await, 18);
}

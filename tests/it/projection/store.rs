//! What one batch does to the tables: fold, fence, repeat, crash, and events that do not fit.

use std::future::Future;
use std::time::Duration;

use futures_util::FutureExt;
use outbox_relay::error::Code;
use outbox_relay::projection::{differences, prepare_all};

use super::*;
use crate::support::{repository, wait_until};

/// A projection that waits for a lock of the test and then refuses nothing.
const WAITS: &str = "select ordinal, event_type from new_events where pg_advisory_xact_lock(1) is null";

/// Another instance has taken the partition.
fn is_fenced(folded: &Folded, epoch: i64) -> bool {
    matches!(&folded.end, End::Elsewhere(Some(standing)) if standing.epoch > epoch)
}

fn counts(applied: u64, duplicate: u64, skipped: u64, parked: u64) -> Counts {
    Counts { applied, duplicate, skipped, parked }
}

fn new(offset: i64, event_type: &str, value: &str) -> Record {
    record(offset, Uuid::new_v4(), event_type, value)
}

#[tokio::test]
async fn the_six_commerce_events_are_folded() {
    let bench = StoreBench::product_metrics("six").await;
    let order = r#"{"orderId": 9, "items": [{"productId": 1, "quantity": 2, "amount": 31800.50}, {"productId": 2, "quantity": 1, "amount": 0}]}"#;
    let cancelled = r#"{"orderId": 9, "items": [{"productId": 1, "quantity": 1, "amount": 800.25}]}"#;
    let records = [
        new(0, "LikeAddedEvent", r#"{"productId": 1, "userId": "u"}"#),
        new(1, "LikeAddedEvent", r#"{"productId": 1}"#),
        new(2, "LikeRemovedEvent", r#"{"productId": 1}"#),
        new(3, "ProductViewEvent", r#"{"productId": 3.0}"#),
        new(4, "OrderCreatedEvent", order),
        new(6, "OrderCancelledEvent", cancelled),
        new(9, "PaymentCompletedEvent", r#"{"orderId": 9, "amount": "what it likes"}"#),
    ];
    assert_eq!(bench.fold_all(&records).await, counts(7, 0, 0, 0));
    assert_eq!(product_metrics(&bench.client).await, ["1 1 0 1 31000.25", "2 0 0 1 0", "3 0 1 0 0"]);
    let last = "select count(*) from product_metrics where last_event_at = '2031-05-04 09:12:44+00'";
    assert_eq!(number(&bench.client, last).await, 3);
    let handled = "select count(*) from event_handled where consumer_group = 'metrics' and topic = 'catalog-events' \
                   and partition = 0 and event_type is not null";
    assert_eq!(number(&bench.client, handled).await, 7);
    assert_eq!(next_offset(&bench.client).await, 10);
}

#[tokio::test]
async fn a_repeat_counts_once_within_a_batch_and_between_batches() {
    let bench = StoreBench::product_metrics("repeat").await;
    let id = Uuid::new_v4();
    let same = |offset| record(offset, id, "LikeAddedEvent", r#"{"productId": 1}"#);
    assert_eq!(bench.fold_all(&[same(0), same(1), same(2)]).await, counts(1, 2, 0, 0));
    let mut second = vec![same(3)];
    second.extend(likes(4..6));
    assert_eq!(bench.fold_all(&second).await, counts(2, 1, 0, 0));
    assert_eq!(product_metrics(&bench.client).await, ["1 3 0 0 0"]);
}

#[tokio::test]
async fn another_group_folds_the_same_events_for_itself() {
    let bench = StoreBench::product_metrics("groups").await;
    let records = likes(0..3);
    bench.fold_all(&records).await;
    let other = Store::new(&bench.database, "other".to_owned(), vec![Projection::product_metrics()], Metrics::new());
    let fence = other.take(&[(bench.place.clone(), 0)], false).await.expect("take");
    assert_eq!((fence[0].epoch, fence[0].position.next_offset), (1, 0));
    let folded = fold_batch(&other, &bench.place, 1, 0, &records).await;
    assert_eq!(folded.counts, counts(3, 0, 0, 0));
}

#[tokio::test]
async fn unknown_types_are_passed_over_whatever_they_hold() {
    let bench = StoreBench::product_metrics("unknown").await;
    let mut records = vec![new(0, "SomethingElse", "no json"), new(1, "LikeAddedEvent", r#"{"productId": 1}"#)];
    records.push(Record::new(TOPIC, 0, 2, None, Vec::new(), None, None));
    assert_eq!(bench.fold_all(&records).await, counts(1, 0, 2, 0));
    assert_eq!(bench.fold_all(&[new(3, "SomethingElse", "{}")]).await, counts(0, 0, 1, 0));
    assert_eq!((bench.parked().await.len(), next_offset(&bench.client).await), (0, 4));
    assert_eq!(number(&bench.client, "select count(*) from event_handled").await, 1);
}

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

#[tokio::test]
async fn each_projection_sees_the_new_events_of_its_types_only() {
    let copy = |name: &str, types: &[&str]| {
        projection(
            name,
            types,
            &format!(
                "insert into copies select '{name}', event_type, key, event_version, headers ->> 'ce_type' from new_events"
            ),
        )
    };
    let projections = vec![copy("all", &[]), copy("a", &["A"]), copy("ab", &["A", "B"]), copy("ab2", &["B", "A"])];
    let tables = "create table copies (name text, event_type text, key text, event_version int, header text)";
    let bench = StoreBench::new("filters", projections, tables).await;
    let a = Uuid::new_v4();
    bench.fold_all(&[record(0, a, "A", "{}")]).await;
    let records = [record(1, a, "A", "{}"), new(2, "B", "{}"), new(3, "A", "{}"), new(4, "C", "{}")];
    assert_eq!(bench.fold_all(&records).await, counts(3, 1, 0, 0));
    let sql = "select name || ' ' || string_agg(event_type, '' order by event_type) from copies \
               where key = 'key' and event_version = 1 and header = event_type group by name order by name";
    let found: Vec<String> = bench.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(found, ["a AA", "ab AAB", "ab2 AAB", "all AABC"]);
}

#[tokio::test]
async fn a_batch_of_an_earlier_owner_changes_nothing() {
    let bench = StoreBench::product_metrics("zombie").await;
    let zombie = bench.take().await;
    let heir = bench.take().await;
    let records = likes(0..10);
    let folded = bench.fold(zombie, &records).await;
    assert!(is_fenced(&folded, zombie) && folded.next_offset.is_none(), "{folded:?}");
    assert!(product_metrics(&bench.client).await.is_empty());
    assert_eq!(number(&bench.client, "select count(*) from event_handled").await, 0);
    assert_eq!(bench.fold(heir, &records).await.counts, counts(10, 0, 0, 0));
    // Also when the heir has gone past the batch, and when the row is gone.
    assert!(is_fenced(&bench.fold(zombie, &likes(10..20)).await, zombie));
    bench.client.batch_execute("delete from consumer_partitions").await.unwrap();
    assert!(matches!(bench.fold(heir, &likes(10..20)).await.end, End::Elsewhere(None)));
    assert_eq!(product_metrics(&bench.client).await, ["1 10 0 0 0"]);
}

/// A new owner waits for the transaction in flight and begins behind it.
#[tokio::test]
async fn taking_a_partition_waits_for_the_fold_in_flight() {
    let slow = projection("slow", &[], WAITS);
    let bench = StoreBench::new("wait", vec![Projection::product_metrics(), slow], "").await;
    let epoch = bench.take().await;
    bench.client.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let records = likes(0..10);
    let mut folding = std::pin::pin!(bench.fold(epoch, &records));
    poll_until(&bench, folding.as_mut(), 1).await;
    let places = [(bench.place.clone(), 0)];
    let mut taking = std::pin::pin!(bench.store.take(&places, true));
    poll_until(&bench, taking.as_mut(), 2).await;
    bench.client.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    let (folded, fences) = tokio::join!(folding, taking);
    let fences = fences.expect("take");
    assert!(matches!(folded.end, End::Done), "{folded:?}");
    assert_eq!((fences[0].epoch, fences[0].position.next_offset), (epoch + 1, 10));
}

/// The consumer dies between fold and commit: the connection breaks and PostgreSQL takes everything back.
#[tokio::test]
async fn a_fold_that_dies_before_its_commit_leaves_nothing() {
    let slow = projection("slow", &[], WAITS);
    let bench = StoreBench::new("abort", vec![Projection::product_metrics(), slow], "").await;
    let epoch = bench.take().await;
    bench.client.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    let records = likes(0..10);
    {
        let mut folding = std::pin::pin!(bench.fold(epoch, &records));
        poll_until(&bench, folding.as_mut(), 1).await;
        let seen = number(&bench.client, "select count(*) from product_metrics").await;
        assert_eq!(seen, 0, "not committed");
    }
    bench.client.batch_execute("select pg_advisory_unlock(1)").await.unwrap();
    wait_until("the session of the dead fold is gone", Duration::from_secs(10), async || {
        let left = "select count(*) from pg_locks where locktype = 'advisory' and database = \
                    (select oid from pg_database where datname = current_database())";
        match number(&bench.client, left).await {
            0 => Ok(()),
            left => Err(format!("{left} locks")),
        }
    })
    .await;
    assert_eq!((next_offset(&bench.client).await, product_metrics(&bench.client).await.len()), (0, 0));
    assert_eq!(bench.fold_all(&records).await, counts(10, 0, 0, 0));
    assert_eq!(product_metrics(&bench.client).await, ["1 10 0 0 0"]);
}

/// A position moves only from exactly where its reader believes it to be, whichever side is ahead. (A commit whose
/// answer was lost is told apart from that: `every_step_of_the_consumer_survives_a_crash_an_error_and_a_hang`.)
#[tokio::test]
async fn a_batch_from_another_position_changes_nothing() {
    let bench = StoreBench::product_metrics("elsewhere").await;
    let epoch = bench.take().await;
    let records = likes(0..20);
    assert_eq!(bench.fold(epoch, &records[..6]).await.counts, counts(6, 0, 0, 0));
    for (believed, rest) in [(0, &records[..]), (7, &records[7..]), (10, &records[10..])] {
        let folded = fold_batch(&bench.store, &bench.place, epoch, believed, rest).await;
        let End::Elsewhere(Some(standing)) = &folded.end else { panic!("{folded:?}") };
        assert_eq!((standing.epoch, standing.next_offset, standing.written_offset), (epoch, 6, Some(6)));
        assert_eq!((folded.counts, folded.next_offset), (counts(0, 0, 0, 0), None));
    }
    assert_eq!(product_metrics(&bench.client).await, ["1 6 0 0 0"]);
    assert_eq!(bench.fold(epoch, &records[6..]).await.counts, counts(14, 0, 0, 0));
}

#[tokio::test]
async fn connections_that_died_while_idle_are_replaced() {
    let bench = StoreBench::product_metrics("idle").await;
    let epoch = bench.take().await;
    assert!(matches!(bench.fold(epoch, &likes(0..2)).await.end, End::Done));
    let sql = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
               where application_name like 'outbox-relay%' and datname = current_database()";
    assert!(number(&bench.client, sql).await > 0);
    let folded = bench.fold(epoch, &likes(2..4)).await;
    assert!(matches!(folded.end, End::Done), "{folded:?}");
    assert_eq!(product_metrics(&bench.client).await, ["1 4 0 0 0"]);
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
    // Too long is more than eight events: then it counts without end.
    let slow = projection(
        "slow",
        &[],
        "insert into copies select ordinal from new_events \
         where case when (select count(*) from new_events) > 8 then (select count(*) = 0 from \
           (with recursive n (n) as (select 1 union all select 1 from n) select n from n) as endless) else true end",
    );
    let bench = StoreBench::new("slow", vec![slow], "create table copies (n int)").await;
    let settings = DatabaseConfig {
        url: Secret::new(&bench.test.url),
        statement_timeout: Duration::from_millis(300),
        ..DatabaseConfig::default()
    };
    let database = Database::new(&settings).unwrap();
    let projections = bench.store.projections().to_vec();
    let store = Store::new(&database, "metrics".to_owned(), projections, Metrics::new());
    let epoch = bench.take().await;
    let folded = fold_batch(&store, &bench.place, epoch, 0, &likes(0..40)).await;
    assert!(matches!(folded.end, End::Done), "{folded:?}");
    assert_eq!(folded.counts, counts(40, 0, 0, 0));
    assert_eq!(number(&bench.client, "select count(*) from copies").await, 40);
}

#[tokio::test]
async fn a_projection_that_postgresql_does_not_take_is_named() {
    let bench = StoreBench::product_metrics("prepare").await;
    prepare_all(&bench.database, &[Projection::product_metrics()]).await.expect("the built-in one");
    bench.store.prepare().await.expect("all statements");
    for (sql, problem) in [
        ("insert into no_such_table select 1 from new_events", "no_such_table"),
        ("select nonsense from new_events", "nonsense"),
        ("insert into product_metrics (product_id) values ($1)", "parameters"),
        ("select event_id from new_events", "returns (uuid)"),
        ("select 1, 'a'::text; select 2, 'b'::text", "multiple commands"),
    ] {
        let error = prepare_all(&bench.database, &[projection("mine", &[], sql)]).await.expect_err(sql);
        assert_eq!(error.code(), Code::ProjectionInvalid);
        let text = error.chain();
        assert!(text.contains("projection mine") && text.contains(problem), "{sql}: {text}");
    }
}

/// The example of docs/projections.md: its table, its statement.
#[tokio::test]
async fn the_documented_example_works() {
    let text = std::fs::read_to_string(repository().join("docs/projections.md")).expect("the document");
    let blocks: Vec<&str> =
        text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().expect("an end")).collect();
    let [table, statement] = blocks.as_slice() else { panic!("{} SQL blocks", blocks.len()) };
    let example = projection("customer_orders", &["OrderPlaced"], statement);
    prepare_all(&StoreBench::product_metrics("unprepared").await.database, std::slice::from_ref(&example))
        .await
        .expect_err("there is no such table yet");
    let bench = StoreBench::new("example", vec![example], table).await;
    let order = |offset, customer: &str, total: &str| {
        new(offset, "OrderPlaced", &format!(r#"{{"customerId": "{customer}", "total": {total}}}"#))
    };
    let records = [order(0, "mira", "10.50"), order(1, "ole", "1"), order(2, "mira", "2"), order(3, "ole", "\"much\"")];
    assert_eq!(bench.fold_all(&records).await, counts(3, 0, 0, 1));
    assert_eq!(bench.fold_all(&[order(4, "mira", "0.5")]).await, counts(1, 0, 0, 0));
    let sql = "select customer_id || ' ' || orders || ' ' || spent from customer_orders order by customer_id";
    let found: Vec<String> = bench.client.query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(found, ["mira 3 13.00", "ole 1 1"]);
}

#[tokio::test]
async fn the_recomputation_sees_what_differs() {
    let bench = StoreBench::product_metrics("differences").await;
    let insert = "insert into outbox_events (event_id, event_type, topic, payload, status, published_at) \
                  select e.event_id, e.event_type, 'catalog-events', e.payload::jsonb, e.status, now() \
                  from unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) as e (event_id, event_type, payload, status)";
    let order = r#"{"items": [{"productId": 1, "quantity": 2, "amount": 10.50}, {"productId": 2, "quantity": 1, "amount": 1}]}"#;
    let events = [
        ("LikeAddedEvent", r#"{"productId": 1}"#, "PUBLISHED"),
        ("ProductViewEvent", r#"{"productId": 3}"#, "PUBLISHED"),
        ("OrderCreatedEvent", order, "PUBLISHED"),
        ("OrderCancelledEvent", order, "PENDING"),
        ("LikeAddedEvent", r#"{"productId": "x"}"#, "PUBLISHED"),
    ];
    let ids: Vec<Uuid> = events.iter().map(|_| Uuid::new_v4()).collect();
    let column = |part: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
        events.iter().map(part).collect::<Vec<_>>()
    };
    bench.client.execute(insert, &[&ids, &column(|e| e.0), &column(|e| e.1), &column(|e| e.2)]).await.unwrap();
    let records: Vec<Record> = (0..)
        .zip(&events)
        .zip(&ids)
        .filter(|((_, event), _)| event.2 == "PUBLISHED")
        .map(|((offset, event), id)| record(offset, *id, event.0, event.1))
        .collect();
    assert_eq!(bench.fold_all(&records).await, counts(3, 0, 0, 1));
    assert_eq!(differences(&bench.database, "metrics").await.expect("a comparison"), []);
    bench
        .client
        .batch_execute(
            "update product_metrics set sales_count = 3 where product_id = 1; \
        delete from product_metrics where product_id = 2; insert into product_metrics (product_id) values (4)",
        )
        .await
        .unwrap();
    let found = differences(&bench.database, "metrics").await.expect("a comparison");
    let found: Vec<(i64, Option<&str>, Option<&str>)> =
        found.iter().map(|it| (it.product_id, it.folded.as_deref(), it.expected.as_deref())).collect();
    let expected = [
        (1, Some("likes 1 views 0 sales 3 amount 10.5"), Some("likes 1 views 0 sales 2 amount 10.5")),
        (2, None, Some("likes 0 views 0 sales 1 amount 1")),
        (4, Some("likes 0 views 0 sales 0 amount 0"), None),
    ];
    assert_eq!(found, expected);
}

/// Drives `future` until as many sessions of the consumer wait for a lock.
async fn poll_until<F: Future>(bench: &StoreBench, mut future: std::pin::Pin<&mut F>, blocked: i64) {
    let sql = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' \
               and application_name = 'outbox-relay consumer' and datname = current_database()";
    wait_until("the consumer waits for a lock", Duration::from_secs(10), async || {
        assert!(future.as_mut().now_or_never().is_none(), "it did not wait");
        match number(&bench.client, sql).await {
            waiting if waiting == blocked => Ok(()),
            waiting => Err(format!("{waiting} waiting")),
        }
    })
    .await;
}

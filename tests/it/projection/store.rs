//! What one batch does to the tables.

mod owners;
mod refused;

use outbox_relay::error::Code;
use outbox_relay::projection::{differences, prepare_all};

use super::*;
use crate::support::repository;

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

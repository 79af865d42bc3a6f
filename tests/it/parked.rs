//! Parked events: folded once more after the cause was mended, or given up. And who is blamed for a sum that is out of
//! range.

use std::time::Duration;

use outbox_relay::projection::record::Record;
use outbox_relay::projection::store::parked::Released;
use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::positions::Likes;
use crate::projection::{StoreBench, TOPIC};
use crate::support::wait_until;

const PATIENCE: Duration = Duration::from_secs(90);

/// Writes down what it folds, in the order in which it does, and takes nothing from 100 on.
const SEEN: &str = "create table seen (at bigserial, n int, noted text, constraint small check (n < 100))";
const INTO_SEEN: &str =
    "insert into seen (n, noted) select (payload ->> 'n')::int, headers ->> 'note' from new_events order by ordinal";

async fn rows(client: &Client, sql: &str) -> Vec<i64> {
    client
        .query(sql, &[])
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error:?}"))
        .iter()
        .map(|row| row.get(0))
        .collect()
}

async fn wait_for_rows(client: &Client, sql: &str, expected: &[i64]) {
    wait_until(&format!("{sql} is {expected:?}"), PATIENCE, async || {
        let now = rows(client, sql).await;
        if now == expected { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

/// One consumer with a projection of the test's own, and events 1, 100, 101, 2, 102 in its partition.
#[tokio::test(flavor = "multi_thread")]
async fn parked_events_are_folded_once_more_in_order_after_the_cause_was_mended() {
    const IN_ORDER: &str = "select n::bigint from seen order by at";
    let likes = Likes::new("released", 1).await;
    let client = likes.database.connect().await;
    client.batch_execute(SEEN).await.unwrap();
    let sql = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(sql.path(), INTO_SEEN).expect("write");
    let projection = format!("[[projection]]\nname = \"seen\"\nsql = \"{}\"\n", sql.path().display());
    let consumer = likes.settings_with(&projection).start_ready().await;
    let event = |n: i64| (Uuid::new_v4(), "Seen", format!(r#"{{"n": {n}}}"#));
    let events: Vec<_> = [1, 100, 101, 2, 102].map(event).into();
    let (second, last) = (events[1].0.to_string(), events[4].0.to_string());
    likes.write(events, 1).await;
    wait_for_rows(&client, IN_ORDER, &[1, 2]).await;
    let parked = "select \"offset\" from consumer_parked order by 1";
    wait_for_rows(&client, parked, &[1, 2, 4]).await;

    let listed = likes.command(&["consumer", "parked", "ls"]).await.expect_code(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(3), "{listed}");
    assert!(listed.to_string().contains("23514") && !listed.to_string().contains("\"n\""), "{listed}");
    let shown = likes.command(&["consumer", "parked", "show", &second]).await.expect_code(0).json();
    assert_eq!((&shown[0]["value"], &shown[0]["state"]), (&Value::from(r#"{"n": 100}"#), &Value::from("parked")));
    likes.command(&["consumer", "parked", "show", &Uuid::new_v4().to_string()]).await.expect_code(6);
    likes.command(&["consumer", "parked", "release"]).await.expect_code(2);
    likes.command(&["consumer", "parked", "release", "--type", "Other", "--yes"]).await.expect_code(6);
    let planned = likes.command(&["consumer", "parked", "release", "--all", "--dry-run"]).await.expect_code(0).json();
    assert_eq!((&planned["matched"], &planned["changed"]), (&Value::from(3), &Value::from(0)));

    // The last one is given up. Nothing was mended yet, so the others come back with another attempt.
    likes.command(&["consumer", "parked", "discard", "--id", &last, "--reason", "not ours"]).await.expect_code(0);
    let again = likes.command(&["consumer", "parked", "release", "--all", "--yes"]).await.expect_code(5);
    assert_eq!(again.json()["outcome"]["parked_again"], 2, "{again:?}");
    wait_for_rows(&client, "select attempts::bigint from consumer_parked order by \"offset\"", &[2, 2, 1]).await;
    assert_eq!(rows(&client, IN_ORDER).await, [1, 2]);

    client.batch_execute("alter table seen drop constraint small").await.unwrap();
    let folded = likes.command(&["consumer", "parked", "release", "--error", "23514", "--type", "Seen", "--yes"]).await;
    assert_eq!(folded.expect_code(0).json()["outcome"]["folded"], 2);
    // When the command ends, it is so.
    assert_eq!(rows(&client, IN_ORDER).await, [1, 2, 100, 101]);
    // Nobody can release them again, and a redelivery changes nothing.
    wait_for_rows(&client, parked, &[4]).await;
    likes.command(&["consumer", "parked", "release", "--all", "--yes"]).await.expect_code(6);
    let topic = likes.topic.name.clone();
    let set = ["consumer", "positions", "set", "--topic", &topic, "--partition", "0", "--offset", "earliest", "--yes"];
    likes.command(&set).await.expect_code(0);
    likes.write(vec![event(3)], 1).await;
    wait_for_rows(&client, IN_ORDER, &[1, 2, 100, 101, 3]).await;
    let given_up = likes.command(&["consumer", "parked", "ls", "--discarded"]).await.expect_code(0).json();
    assert_eq!((&given_up[0]["event_id"], &given_up[0]["state"]), (&Value::from(last), &Value::from("discarded")));
    let audited = "select count(*) from outbox_audit where action like 'consumer parked %'";
    assert_eq!(rows(&client, audited).await, [3]);
    consumer.expect_no_error_lines();

    // Nobody is there to fold it: the command says so, and the event stays released.
    drop(consumer);
    client.execute("update consumer_parked set discarded_at = null", &[]).await.unwrap();
    let release = ["consumer", "parked", "release", "--all", "--yes"];
    let left = likes.command(&[&release[..], &["--timeout", "1s"]].concat()).await.expect_code(5);
    assert_eq!(left.json()["outcome"]["waiting"], 1, "{left:?}");
    assert!(left.stderr.contains("1 released events are not folded yet"), "{}", left.stderr);
    assert_eq!(rows(&client, "select count(*) from consumer_parked where release_asked_at is not null").await, [1]);
    client.execute("update consumer_parked set release_asked_at = null", &[]).await.unwrap();
    likes.command(&[&release[..], &["--no-wait"]].concat()).await.expect_code(0);
}

/// Folds from where the partition stands, and returns how many records were parked.
async fn parked_of(bench: &StoreBench, records: &[Record]) -> u64 {
    bench.fold_all(records).await.parked
}

fn order(offset: i64, event_type: &str, quantity: &str, amount: &str) -> Record {
    let text = |text: &str| Some(text.as_bytes().to_vec());
    let headers = vec![("ce_type".into(), text(event_type))];
    let value = format!(r#"{{"items": [{{"productId": 7, "quantity": {quantity}, "amount": {amount}}}]}}"#);
    Record::new(TOPIC, 0, offset, Some(1_900_000_000_000 + offset), headers, None, text(&value))
}

/// Whichever figure is absurd, its own event is parked, and the ordinary ones of the product are folded.
#[tokio::test]
async fn the_order_with_an_absurd_figure_is_parked_and_no_other() {
    let bench = StoreBench::product_metrics("absurd").await;
    let huge = format!("1{}", "0".repeat(400));
    let tiny = format!("0.{}1", "0".repeat(400));
    let (mut offset, mut ordinary) = (0, 0);
    for (quantity, amount) in [
        ("9223372036854775807", "1"),
        ("9223372036854775806", "1"),
        ("4611686018427387904", "1"),
        ("1000000001", "1"),
        ("99999999999999999999999999", "1"),
        ("1", "1000000000000001"),
        ("1", huge.as_str()),
        ("1", tiny.as_str()),
    ] {
        for kind in ["OrderCreatedEvent", "OrderCancelledEvent"] {
            let mut records = vec![order(offset, kind, quantity, amount)];
            records.extend((1..=5).map(|n| order(offset + n, "OrderCreatedEvent", "2", "1.5")));
            assert_eq!(parked_of(&bench, &records).await, 1, "{kind}: {quantity} for {amount}");
            offset += 6;
            ordinary += 5;
            let parked = "select max(\"offset\") from consumer_parked";
            assert_eq!(rows(&bench.client, parked).await, [offset - 6]);
        }
    }
    // The largest ones that are taken, as often as a batch holds them.
    let largest: Vec<Record> =
        (0..500).map(|n| order(offset + n, "OrderCreatedEvent", "1000000000", "1000000000000000")).collect();
    assert_eq!(parked_of(&bench, &largest).await, 0);
    assert_eq!(rows(&bench.client, "select sales_count from product_metrics").await, [ordinary * 2 + 500_000_000_000]);
}

/// Only who has the partition folds what was released of it.
#[tokio::test]
async fn a_released_event_is_folded_by_the_owner_of_its_partition_alone() {
    let bench = StoreBench::product_metrics("owner").await;
    assert_eq!(parked_of(&bench, &[order(0, "OrderCreatedEvent", "0", "1")]).await, 1);
    bench
        .client
        .batch_execute(
            "update consumer_parked set release_asked_at = now(), \
             value = convert_to('{\"items\": [{\"productId\": 7, \"quantity\": 3, \"amount\": 2}]}', 'UTF8')",
        )
        .await
        .unwrap();
    let fence = bench.store.take(&[(bench.place.clone(), 0)], true).await.expect("take").remove(0);
    let zombie = bench.store.fold_released(&bench.place, fence.epoch - 1).await.expect("an answer");
    assert_eq!(zombie, Released::Nothing);
    let owner = bench.store.fold_released(&bench.place, fence.epoch).await.expect("an answer");
    assert_eq!(owner, Released::Folded { offset: 0 });
    assert_eq!(bench.store.fold_released(&bench.place, fence.epoch).await.expect("an answer"), Released::Nothing);
    assert_eq!(rows(&bench.client, "select sales_count from product_metrics").await, [3]);
    assert_eq!(rows(&bench.client, "select count(*) from event_handled").await, [1]);
}

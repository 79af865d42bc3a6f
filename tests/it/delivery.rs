//! What a row becomes in Kafka: key, value, headers, timestamp, partition, topic.

use std::collections::BTreeMap;

use crate::support::outbox::{psql, row, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, Record, TestDatabase, Topic, murmur2, parts::parts};

/// A database, a topic with 6 partitions and a relay between them.
async fn relay_of(
    name: &str,
    settings: impl FnOnce(RelaySettings) -> RelaySettings,
) -> (TestDatabase, Topic, crate::support::Relay) {
    let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 6));
    let relay = settings(RelaySettings::new(&database, &parts().kafka).steady()).start_ready().await;
    (database, topic, relay)
}

fn headers(record: &Record) -> BTreeMap<&str, &str> {
    record.headers.iter().map(|(name, _)| (name.as_str(), record.header(name).expect("it is there"))).collect()
}

#[tokio::test]
async fn a_row_inserted_with_psql_is_the_record_that_the_contract_describes() {
    let (database, topic, relay) = relay_of("delivery", |settings| settings).await;
    let statement = NewRow::new(&topic.name, "4711", r#"{"b": 1, "a": [1.50, null, "ü\n"], "b": 2}"#)
        .text("event_id", "0190a5de-0000-7000-8000-000000000001")
        .text("partition_key", "customer:42")
        .sql("event_version", "3")
        .text("headers", r#"{"x-tenant": "7", "x-empty": "", "Ünicode": "✓"}"#)
        .text("correlation_id", "saga-88f1")
        .text("causation_id", "cmd-3")
        .text("source", "/shop")
        .text("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .text("created_at", "2021-05-04 09:12:44.123456+00")
        .statement();
    let id: i64 = psql(&database, &statement).await.parse().unwrap();

    let records = topic.wait_for_records(1).await;
    assert_eq!(records.len(), 1);
    let record = &records[0];
    assert_eq!(record.key_text(), Some("customer:42"));
    // As PostgreSQL prints jsonb: keys sorted, the last of two wins, numbers with their digits.
    assert_eq!(record.value_text(), Some(r#"{"a": [1.50, null, "ü\n"], "b": 2}"#));
    assert_eq!(record.timestamp_ms, Some(1_620_119_564_123));
    assert_eq!(record.partition, murmur2::partition(b"customer:42", 6));
    let id_text = id.to_string();
    let expected = BTreeMap::from([
        ("outbox-id", id_text.as_str()),
        ("outbox-event-id", "0190a5de-0000-7000-8000-000000000001"),
        ("x-tenant", "7"),
        ("x-empty", ""),
        ("Ünicode", "✓"),
        ("correlation-id", "saga-88f1"),
        ("causation-id", "cmd-3"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("ce_specversion", "1.0"),
        ("ce_id", "0190a5de-0000-7000-8000-000000000001"),
        ("ce_type", "OrderCreatedEvent"),
        ("ce_source", "/shop"),
        ("ce_subject", "4711"),
        ("ce_time", "2021-05-04T09:12:44.123456Z"),
        ("ce_aggregatetype", "Order"),
        ("ce_eventversion", "3"),
        ("content-type", "application/json"),
    ]);
    assert_eq!(headers(record), expected);

    let client = database.connect().await;
    let row = wait_for_status(&client, id, "PUBLISHED").await;
    assert_eq!((row.retry_count, row.last_error, row.has_published_at), (0, None, true));
    assert_eq!((row.published_partition, row.published_offset), (Some(record.partition), Some(record.offset)));
    relay.expect_no_error_lines();
}

#[tokio::test]
async fn the_least_row_has_only_the_headers_that_are_always_there() {
    let (database, topic, _relay) = relay_of("least", |settings| settings.set("run.deployment", "shop")).await;
    let client = database.connect().await;
    let id = NewRow::new(&topic.name, "4711", "{}").insert(&client).await;
    let record = &topic.wait_for_records(1).await[0];
    let stored = client
        .query_one(
            "select event_id::text, floor(extract(epoch from created_at) * 1000)::bigint from outbox_events",
            &[],
        )
        .await
        .unwrap();
    let event_id: String = stored.get(0);
    assert_eq!((record.key_text(), record.value_text()), (Some("4711"), Some("{}")), "the key is the aggregate id");
    assert_eq!(record.timestamp_ms, Some(stored.get::<_, i64>(1)), "the timestamp is created_at");
    let mut found = headers(record);
    let time: jiff::Timestamp = found.remove("ce_time").expect("ce_time").parse().expect("RFC 3339");
    assert_eq!(Some(time.as_millisecond()), record.timestamp_ms);
    let expected = BTreeMap::from([
        ("outbox-id", record.header("outbox-id").unwrap()),
        ("outbox-event-id", event_id.as_str()),
        ("ce_specversion", "1.0"),
        ("ce_id", event_id.as_str()),
        ("ce_type", "OrderCreatedEvent"),
        ("ce_source", "/shop"),
        ("ce_subject", "4711"),
        ("ce_aggregatetype", "Order"),
        ("ce_eventversion", "1"),
        ("content-type", "application/json"),
    ]);
    assert_eq!((record.outbox_id(), found), (id, expected));
}

#[tokio::test]
async fn the_plain_profile_adds_nothing_of_cloudevents() {
    let (database, topic, _relay) = relay_of("plain", |settings| settings.set("headers.profile", "plain")).await;
    let client = database.connect().await;
    NewRow::new(&topic.name, "4711", "{}").text("headers", r#"{"x": "1"}"#).insert(&client).await;
    let record = &topic.wait_for_records(1).await[0];
    let names: Vec<&str> = headers(record).into_keys().collect();
    assert_eq!(names, ["outbox-event-id", "outbox-id", "x"]);
}

/// Services forward the headers of what they consumed: those must not make the new record look like the old one.
#[tokio::test]
async fn own_headers_replace_the_standard_ones_but_not_the_identity() {
    let (database, topic, _relay) = relay_of("own", |settings| settings).await;
    let client = database.connect().await;
    let headers_of_another = r#"{"outbox-id": "1", "outbox-event-id": "x", "outbox-replay-of": "9", "correlation-id": "own",
        "content-type": "application/vnd.shop+json", "ce_source": "/own"}"#;
    let row =
        NewRow::new(&topic.name, "4711", "{}").text("headers", headers_of_another).text("correlation_id", "column");
    let id = row.insert(&client).await;
    let record = &topic.wait_for_records(1).await[0];
    assert_eq!(record.outbox_id(), id);
    assert_ne!(record.header("outbox-event-id"), Some("x"));
    assert_eq!(record.header("outbox-replay-of"), None);
    assert_eq!(record.header("correlation-id"), Some("own"));
    assert_eq!(record.header("content-type"), Some("application/vnd.shop+json"));
    assert_eq!(record.header("ce_source"), Some("/own"));
}

#[tokio::test]
async fn bytes_pass_untouched_and_two_nulls_are_a_tombstone() {
    let (database, topic, _relay) = relay_of("bytes", |settings| settings).await;
    let client = database.connect().await;
    let base = NewRow::new(&topic.name, "k", "{}").without("payload");
    base.clone().sql("payload_raw", r"'\x00ff80c328000d0a'::bytea").insert(&client).await;
    base.clone().sql("payload_raw", "''::bytea").insert(&client).await;
    base.clone().insert(&client).await;
    base.text("payload", "null").insert(&client).await;
    let records = topic.wait_for_records(4).await;
    let values: Vec<_> = records.iter().map(|record| record.value.as_deref()).collect();
    let raw: &[u8] = &[0x00, 0xff, 0x80, 0xc3, 0x28, 0x00, 0x0d, 0x0a];
    assert_eq!(values, [Some(raw), Some(b"".as_slice()), None, Some(b"null".as_slice())]);
    assert_eq!(records[0].header("content-type"), Some("application/octet-stream"));
    assert_eq!(records[2].header("content-type"), None, "a tombstone has no content");
}

#[tokio::test]
async fn a_row_without_a_key_becomes_a_record_without_a_key() {
    let (database, topic, _relay) = relay_of("keyless", |settings| settings).await;
    let client = database.connect().await;
    let base = NewRow::new(&topic.name, "k", "{}").without("aggregate_id");
    let keyless = base.clone().insert(&client).await;
    let empty = base.text("partition_key", "").insert(&client).await;
    let records = topic.wait_for_records(2).await;
    let key_of = |id| records.iter().find(|record| record.outbox_id() == id).unwrap().key.as_deref();
    assert_eq!((key_of(keyless), key_of(empty)), (None, Some(b"".as_slice())));
    let record = records.iter().find(|record| record.outbox_id() == keyless).unwrap();
    assert_eq!(record.header("ce_subject"), None, "no aggregate, no subject");
}

/// Promise: key-order.
#[tokio::test]
async fn keys_land_in_the_partition_that_a_java_producer_chooses() {
    let (database, six, _relay) = relay_of("murmur2", |settings| settings).await;
    let twelve = Topic::create("murmur2", 12).await;
    let client = database.connect().await;
    for (key, ..) in murmur2::JAVA {
        NewRow::new(&six.name, key, "{}").insert(&client).await;
        NewRow::new(&twelve.name, key, "{}").insert(&client).await;
    }
    for (topic, of) in [(&six, 6), (&twelve, 12)] {
        let records = topic.wait_for_records(murmur2::JAVA.len()).await;
        let found: BTreeMap<_, _> =
            records.iter().map(|record| (record.key_text().unwrap(), record.partition)).collect();
        let expected = murmur2::JAVA.iter().map(|&(key, _, six, twelve)| (key, if of == 6 { six } else { twelve }));
        assert_eq!(found, expected.collect::<BTreeMap<_, _>>(), "{of} partitions");
    }
}

#[tokio::test]
async fn a_row_without_a_topic_goes_where_the_first_matching_rule_sends_it() {
    let (database, orders, items) = tokio::join!(
        TestDatabase::migrated("routing"),
        Topic::create("order-events", 1),
        Topic::create("karrot.item.events", 1)
    );
    // order-events-<run>-<n>: the rule is given what is around the name that it makes.
    let (_, orders_end) = orders.name.split_once("order-events").unwrap();
    let (_, items_end) = items.name.split_once("karrot.item.events").unwrap();
    let file = format!(
        r#"
        [[routing.rule]]
        event_type = "ITEM_.*"
        aggregate_type = "(?<domain>[a-z]+)"
        topic = "karrot.${{domain}}.events{items_end}"

        [[routing.rule]]
        event_type = "(\\w+?)(Created|Cancelled)Event"
        topic = "order-events{orders_end}"

        [[routing.rule]]
        event_type = ".*"
        topic = "nowhere"
        "#
    );
    let _relay = RelaySettings::new(&database, &parts().kafka).steady().file(&file).start_ready().await;
    let client = database.connect().await;
    let base = NewRow::new("", "k", "{}").without("topic");
    let order = base.clone().insert(&client).await;
    let item = base.clone().text("event_type", "ITEM_SOLD").text("aggregate_type", "item").insert(&client).await;
    let named = base.text("topic", &items.name).insert(&client).await;
    assert_eq!(orders.wait_for_records(1).await[0].outbox_id(), order);
    let ids: Vec<i64> = items.wait_for_records(2).await.iter().map(Record::outbox_id).collect();
    assert_eq!(ids, [item, named], "a topic in the row goes before any rule");
    assert_eq!(row(&client, order).await.last_error, None);
}

/// `batch_bytes` bounds what is read into memory: a batch ends with the row that reaches it.
///
/// Promise: memory.
#[tokio::test]
async fn a_batch_is_bounded_by_its_bytes_and_large_rows_flow_in_order() {
    let settings =
        |settings: RelaySettings| settings.set("relay.batch_bytes", "1MB").set("relay.max_record_bytes", "1MB");
    let (database, topic, relay) = relay_of("large", settings).await;
    let client = database.connect().await;
    // 12 rows of 900 kB, all visible at once: a second one fits a batch, a third does not.
    client
        .execute(
            "insert into outbox_events (aggregate_id, event_type, topic, payload) \
             select 'k', 'E', $1, jsonb_build_object('pad', repeat('x', 900000)) from generate_series(1, 12)",
            &[&topic.name],
        )
        .await
        .unwrap();
    let records = topic.wait_for_records(12).await;
    let ids: Vec<i64> = records.iter().map(Record::outbox_id).collect();
    assert!(ids.is_sorted() && records.iter().all(|record| record.value.as_ref().unwrap().len() > 900_000));
    wait_for_status(&client, ids[11], "PUBLISHED").await;
    relay.wait_for_metric("outbox_relay_batch_events_sum", |events| events >= 12.0).await;
    let batches = relay.metric("outbox_relay_batch_events_count").await;
    assert!(batches >= 6.0, "more than two of them were in one batch: {batches} batches");
}

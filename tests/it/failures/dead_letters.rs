//! What is in a dead letter, and dead letters that are refused themselves.

use std::time::Duration;

use super::{MODES, PATIENCE, cli, ids_of, large, relay, small_topic, wait_until_no_key_is_held};
use crate::support::outbox::{counts, row, wait_for_status};
use crate::support::{NewRow, TestDatabase, Topic, side_by_side, wait_until};

/// Promise: dead-letters.
#[tokio::test]
async fn a_dead_letter_keeps_the_record_and_says_why_and_its_key_goes_on() {
    side_by_side(MODES, async |mode| {
        let database = TestDatabase::migrated("dead-letter").await;
        let topic = small_topic("dead-letter").await;
        let dead = Topic { name: format!("{}-dlq", topic.name), ..topic.clone() }.created(1).await;
        let client = database.connect().await;
        let _relay = relay(&database, mode).set("retry.on_exhausted", "dead-letter").start_ready().await;
        let before = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
        let bad = large(&topic, "k")
            .text("headers", r#"{"tenant": "acme", "retry_count": "4", "original_topic": "elsewhere"}"#)
            .text("correlation_id", "c-1")
            .insert(&client)
            .await;
        let after = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
        wait_for_status(&client, after, "PUBLISHED").await;
        let failed = wait_for_status(&client, bad, "FAILED").await;
        assert_eq!(failed.retry_count, 1);
        assert_eq!(ids_of(&topic, "k").await, [before, after], "{mode}");
        let letters = dead.wait_for_records(1).await;
        let letter = &letters[0];
        assert_eq!((letter.key_text(), letter.outbox_id()), (Some("k"), bad));
        let payload: String = client
            .query_one("select payload::text from outbox_events where id = $1", &[&bad])
            .await
            .expect("it")
            .get(0);
        assert_eq!(letter.value_text(), Some(payload.as_str()));
        let expected = [
            ("tenant", "acme"),
            ("correlation-id", "c-1"),
            ("original_topic", topic.name.as_str()),
            ("exception_class", "too-large"),
            ("retry_count", "5"),
        ];
        for (name, value) in expected {
            assert_eq!(letter.header(name), Some(value), "{mode}: {name}");
        }
        assert!(letter.header("exception_message").is_some_and(|text| text.contains("max.message.bytes = 20000")));
        let failed_at: jiff::Timestamp = letter.header("failed_at").expect("a time").parse().expect("ISO 8601");
        assert!(failed_at > "2026-01-01T00:00:00Z".parse().expect("a time"));
        let created: jiff::Timestamp =
            client.query_one("select created_at from outbox_events where id = $1", &[&bad]).await.expect("it").get(0);
        assert_eq!(letter.timestamp_ms, Some(created.as_millisecond()), "{mode}: the time of the event");
        wait_until_no_key_is_held(&client).await;
    })
    .await;
}

/// The dead letter of an event is refused too: nothing goes round in circles, nothing is lost, nobody waits.
///
/// Promise: dead-letters.
#[tokio::test]
async fn a_dead_letter_that_is_refused_fails_and_holds_nobody() {
    let database = TestDatabase::migrated("dead-dead").await;
    let topic = small_topic("dead-dead").await;
    let dead = Topic { name: format!("{}-dlq", topic.name), ..topic.clone() };
    let dead = dead.created_with(1, &[("max.message.bytes", "20000")]).await;
    let client = database.connect().await;
    let _relay = relay(&database, MODES[0]).set("retry.on_exhausted", "dead-letter").start_ready().await;
    let bad = large(&topic, "k").insert(&client).await;
    let copy: i64 = wait_until("the copy has failed", PATIENCE, async || {
        let copy = "select id from outbox_current where dead_letter_of = $1 and status = 'FAILED'";
        let found = client.query_opt(copy, &[&bad]).await.map_err(|error| error.to_string())?;
        found.map(|row| row.get(0)).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    let after = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    wait_for_status(&client, after, "PUBLISHED").await;
    assert_eq!(counts(&client).await, [("FAILED".to_owned(), 2), ("PUBLISHED".to_owned(), 1)].into());
    wait_until_no_key_is_held(&client).await;
    assert_eq!(dead.len().await, 0);
    let due = "select count(*) from outbox_events where dead_letter_to is not null or dead_letter_of = $1";
    assert_eq!(
        client.query_one(due, &[&copy]).await.expect("count").get::<_, i64>(0),
        0,
        "no dead letter of a dead letter"
    );
    // It can be tried again like any other, once there is room.
    dead.set("max.message.bytes", "2000000").await;
    wait_until("the relay has heard of it, and the dead letter is there", Duration::from_secs(120), async || {
        cli(&database, &["events", "retry", &copy.to_string()]).await;
        if dead.len().await == 1 { Ok(()) } else { Err(format!("{:?}", row(&client, copy).await)) }
    })
    .await;
}

//! Keys that wait behind a failed event, and how they are released.

use super::{MODES, PATIENCE, cli, ids_of, large, relay, small_topic, wait_until_no_key_is_held};
use crate::support::kafka::sent_ids;
use crate::support::outbox::{
    committed_ids, counts, insert_many, row, try_counts, wait_for_status, wait_until_published,
};
use crate::support::{NewRow, TestDatabase, order, side_by_side, wait_until};

#[tokio::test]
async fn a_rule_skips_what_others_hold() {
    let database = TestDatabase::migrated("skip").await;
    let topic = small_topic("skip").await;
    let client = database.connect().await;
    let file = "[[retry.rule]]\nevent_type = \"Minor*\"\non_exhausted = \"skip\"\n";
    let _relay = relay(&database, MODES[0]).file(file).start_ready().await;
    let minor = large(&topic, "minor").text("event_type", "MinorEvent").insert(&client).await;
    let after_minor = NewRow::new(&topic.name, "minor", "{}").insert(&client).await;
    let major = large(&topic, "major").insert(&client).await;
    let after_major = NewRow::new(&topic.name, "major", "{}").insert(&client).await;
    wait_for_status(&client, minor, "FAILED").await;
    wait_for_status(&client, after_minor, "PUBLISHED").await;
    wait_for_status(&client, major, "FAILED").await;
    wait_for_status(&client, after_major, "HELD").await;
    assert_eq!(topic.len().await, 1);
}

/// A thousand events behind a failed one come back in order, while other keys are served in between and a restart
/// comes in the middle.
///
/// Promise: retry-order.
#[tokio::test]
async fn what_waited_behind_a_failed_event_is_released_in_order() {
    side_by_side(MODES, async |mode| {
        let database = TestDatabase::migrated("release").await;
        let topic = small_topic("release").await;
        let client = database.connect().await;
        // In at-least-once delivery the third one waits for the lease of the second.
        let settings = relay(&database, mode).set("relay.lease", "3s").set("relay.batch_rows", "100");
        let mut first = settings.start_ready().await;
        let bad = large(&topic, "k0").insert(&client).await;
        wait_for_status(&client, bad, "FAILED").await;
        insert_many(&client, &topic.name, 1, 1_200).await;
        wait_until("all of them wait", PATIENCE, async || {
            let counts = counts(&client).await;
            if counts.get("HELD") == Some(&1_200) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
        topic.set("max.message.bytes", "2000000").await;
        // The limit of the topic is looked up once a minute, and when a relay starts.
        first.terminate().await;
        let mut second = settings.start_ready().await;
        // It knows the topic, so the release begins with the first step.
        let known = NewRow::new(&topic.name, "known", "{}").insert(&client).await;
        wait_for_status(&client, known, "PUBLISHED").await;
        cli(&database, &["events", "retry", "--key", "k0", "--yes"]).await.expect_code(0);
        wait_until("the release has begun", PATIENCE, async || {
            let counts = try_counts(&client).await.map_err(|error| error.to_string())?;
            if counts.get("PUBLISHED") >= Some(&200) { Ok(()) } else { Err(format!("{counts:?}")) }
        })
        .await;
        let other = NewRow::new(&topic.name, "other", "{}").insert(&client).await;
        let newest = NewRow::new(&topic.name, "k0", "{}").insert(&client).await;
        second.kill().await;
        let _third = settings.start_ready().await;
        wait_until_published(&database, PATIENCE).await;
        let sent = ids_of(&topic, "k0").await;
        match mode {
            "exactly-once" => assert_eq!(sent.len(), 1_202, "no repeat"),
            _ => assert!(sent.len() >= 1_202),
        }
        let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
        report.expect_kept();
        assert_eq!((sent.first(), sent.last()), (Some(&bad), Some(&newest)), "{mode}");
        assert_eq!(ids_of(&topic, "other").await.first(), Some(&other));
        wait_until_no_key_is_held(&client).await;
    })
    .await;
}

/// Promise: retry-order.
#[tokio::test]
async fn a_discarded_event_is_never_sent_and_what_waited_goes_on() {
    let database = TestDatabase::migrated("discard").await;
    let topic = small_topic("discard").await;
    let client = database.connect().await;
    let _relay = relay(&database, MODES[0]).start_ready().await;
    let bad = large(&topic, "k").insert(&client).await;
    let behind: Vec<i64> = [
        NewRow::new(&topic.name, "k", "{}").insert(&client).await,
        NewRow::new(&topic.name, "k", "{}").insert(&client).await,
        NewRow::new(&topic.name, "k", "{}").insert(&client).await,
    ]
    .into();
    for id in &behind {
        wait_for_status(&client, *id, "HELD").await;
    }
    // One of those that wait is given up; the key stays held, because the first one holds it.
    cli(&database, &["events", "discard", &behind[1].to_string()]).await.expect_code(0);
    assert_eq!(row(&client, behind[0]).await.status, "HELD");
    let dry = cli(&database, &["events", "discard", "--class", "too-large", "--dry-run", "-o", "json"]).await;
    assert_eq!(dry.expect_code(0).json()["matched"], 1);
    assert_eq!(row(&client, bad).await.status, "FAILED", "a dry run changes nothing");
    cli(&database, &["events", "discard", "--class", "too-large", "--yes"]).await.expect_code(0);
    wait_for_status(&client, behind[2], "PUBLISHED").await;
    assert_eq!(row(&client, bad).await.status, "DISCARDED");
    assert_eq!(row(&client, behind[1]).await.status, "DISCARDED");
    assert_eq!(ids_of(&topic, "k").await, [behind[0], behind[2]]);
}

/// An event that was skipped is tried again while its key is held by a later one: that one may not be left behind.
///
/// Promise: retry-order.
#[tokio::test]
async fn a_retry_takes_the_failed_event_that_holds_the_key_along() {
    let database = TestDatabase::migrated("along").await;
    let topic = small_topic("along").await;
    let client = database.connect().await;
    let file = "[[retry.rule]]\nevent_type = \"Minor*\"\non_exhausted = \"skip\"\n";
    let settings = relay(&database, MODES[0]).file(file);
    let mut first = settings.start_ready().await;
    let minor = large(&topic, "k").text("event_type", "MinorEvent").insert(&client).await;
    wait_for_status(&client, minor, "FAILED").await;
    let major = large(&topic, "k").insert(&client).await;
    let last = NewRow::new(&topic.name, "k", "{}").insert(&client).await;
    wait_for_status(&client, last, "HELD").await;
    topic.set("max.message.bytes", "2000000").await;
    first.terminate().await;
    let _second = settings.start_ready().await;
    cli(&database, &["events", "retry", &minor.to_string()]).await.expect_code(0);
    wait_until_published(&database, PATIENCE).await;
    assert_eq!(ids_of(&topic, "k").await, [minor, major, last]);
}

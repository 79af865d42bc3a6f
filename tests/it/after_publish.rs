//! `relay.after_publish = "delete"`: rows of published events go at once, and every promise holds.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::kafka::sent_ids;
use crate::support::order;
use crate::support::outbox::{committed_ids, counts, insert_many, wait_for_status};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, parts::parts, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

fn deleting(database: &TestDatabase, delivery: &str, deployment: &str) -> RelaySettings {
    RelaySettings::new(database, &parts().kafka)
        .set("relay.after_publish", "delete")
        .set("relay.delivery", delivery)
        .set("run.deployment", deployment)
        .set("relay.batch_rows", "50")
}

async fn wait_for_rows(client: &Client, limit: impl Fn(i64) -> bool) {
    wait_until("rows go", PATIENCE, async || {
        let rows: i64 = client.query_one("select count(*) from outbox_events", &[]).await.expect("a count").get(0);
        if limit(rows) { Ok(()) } else { Err(rows.to_string()) }
    })
    .await;
}

/// Rows go while they are published, over a SIGKILL with batches in flight.
async fn rows_go(delivery: &str) {
    let (database, topic) = tokio::join!(TestDatabase::migrated("deleting"), Topic::create("deleting", 6));
    let client = database.connect().await;
    insert_many(&client, &topic.name, 100, 2_000).await;
    let committed = committed_ids(&client).await;
    let settings = deleting(&database, delivery, &unique("deleting")).set("relay.batch_rows", "20");
    let mut first = settings.start();
    wait_for_rows(&client, |rows| rows < 1_700).await;
    first.kill().await;
    let mut second = settings.start_ready().await;
    wait_for_rows(&client, |rows| rows == 0).await;
    let report = order::check(&committed, &sent_ids(&topic.records().await));
    report.expect_kept();
    if delivery == "exactly-once" {
        report.expect_no_repeats();
    }
    second.terminate().await;
    assert!(!second.log_text().contains("OR-R002"), "what was deleted by the relay itself is not missed");
}

/// Promise: delete.
#[tokio::test]
async fn rows_of_published_events_go_at_once() {
    rows_go("at-least-once").await;
}

/// Promise: delete.
#[tokio::test]
async fn rows_of_published_events_go_at_once_in_exactly_once_delivery() {
    rows_go("exactly-once").await;
}

/// A failed event stays with what waits behind it, and its dead letter stays once it is published: without it the event
/// would be retried.
///
/// Promise: delete.
#[tokio::test]
async fn what_failed_stays_and_so_does_its_dead_letter() {
    let (database, topic) =
        tokio::join!(TestDatabase::migrated("deleting-failed"), Topic::create("deleting-failed", 3));
    let dead = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() }.created(1).await;
    let client = database.connect().await;
    let file = "[[retry.rule]]\nevent_type = \"Minor*\"\non_exhausted = \"dead-letter\"\n\
                [reprocess]\nenabled = true\ninterval = \"1s\"\nolder_than = \"1s\"\n";
    let relay = deleting(&database, "at-least-once", "deleting").steady().file(file).start_ready().await;
    let bad = |key: &str| NewRow::new(&topic.name, key, "{}").text("headers", r#"{"a": 1}"#);
    let minor = bad("minor").text("event_type", "MinorEvent").insert(&client).await;
    let letter: i64 = wait_until("the dead letter is published and stays", PATIENCE, async || {
        let query = "select id from outbox_current where dead_letter_of = $1 and status = 'PUBLISHED'";
        let row = client.query_opt(query, &[&minor]).await.expect("a look");
        row.map(|row| row.get(0)).ok_or_else(|| "not yet".to_owned())
    })
    .await;
    assert!(letter > minor);
    assert_eq!(dead.wait_for_records(1).await.len(), 1);
    let behind = NewRow::new(&topic.name, "minor", "{}").insert(&client).await;
    wait_until("what came behind it has gone", PATIENCE, async || {
        let row =
            client.query_opt("select status from outbox_current where id = $1", &[&behind]).await.expect("a look");
        row.map_or(Ok(()), |row| Err(row.get::<_, String>(0)))
    })
    .await;
    wait_for_status(&client, minor, "FAILED").await;
    // Reprocessing runs every second by now, and passes over what has a dead letter.
    let again = NewRow::new(&topic.name, "again", "{}").insert(&client).await;
    wait_for_rows(&client, |rows| rows == 2).await;
    assert_eq!(counts(&client).await.get("FAILED"), Some(&1), "{again}");
    assert_eq!(dead.len().await, 1, "one dead letter");
    drop(relay);
}

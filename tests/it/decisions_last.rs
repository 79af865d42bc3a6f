//! A decision about an event counts for all its dead letters, in each way to send them back, after the rows were
//! cleaned up, and in both delivery modes.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::cli::Call;
use crate::support::kafka::client_config;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, side_by_side, unique, wait_until};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

const PATIENCE: Duration = Duration::from_secs(90);

/// What somebody does about the events that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Retry,
    Discard,
    /// The first of two records of one dead letter is sent back.
    Redrive,
}

struct Shop {
    database: TestDatabase,
    client: Client,
    topic: Topic,
    letters: Topic,
}

impl Shop {
    fn call(&self, args: &[&str]) -> Call {
        let args = [args, &["-o", "json"]].concat();
        let call =
            outbox_relay(&args).env("DATABASE_URL", &self.database.url).env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka);
        call.env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
    }

    async fn count(&self, condition: &str) -> i64 {
        let sql = format!("select count(*) from outbox_events where {condition}");
        self.client.query_one(&sql, &[]).await.expect("a count").get(0)
    }

    /// Kafka has each dead letter twice, as after a crash in at-least-once delivery.
    async fn repeat_letters(&self) {
        let producer: BaseProducer = client_config(&self.letters.bootstrap).create().expect("producer");
        for record in self.letters.records().await {
            let headers = record.headers.iter().fold(OwnedHeaders::new(), |headers, (name, value)| {
                headers.insert(Header { key: name, value: value.as_ref() })
            });
            let mut again = BaseRecord::to(&self.letters.name).headers(headers);
            again.key = record.key.as_ref();
            again.payload = record.value.as_ref();
            producer.send(again).map_err(|(error, _)| error).expect("queued");
        }
        producer.flush(PATIENCE).expect("acknowledged");
    }
}

async fn decided(delivery: &str, after_publish: &str, deed: Deed) {
    let what = format!("{delivery}, {after_publish}, {deed:?}");
    let (database, topic) = tokio::join!(TestDatabase::migrated("decided-last"), Topic::create("decided-last", 1));
    let letters = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() }.created(1).await;
    let client = database.connect().await;
    let shop = Shop { database, client, topic, letters };
    let settings = RelaySettings::new(&shop.database, &parts().kafka)
        .steady()
        .set("relay.tracking", "rows")
        .set("relay.after_publish", after_publish)
        .set("relay.delivery", delivery)
        .set("run.deployment", &unique("decided-last"))
        .set("retry.on_exhausted", "dead-letter");
    let mut relay = settings.start_ready().await;
    for n in 0..3 {
        NewRow::new(&shop.topic.name, &format!("k{n}"), "{}").text("headers", r#"{"a": 1}"#).insert(&shop.client).await;
    }
    wait_until("each has its dead letter", PATIENCE, async || {
        // By what a consumer sees: the markers of transactions take offsets, too.
        let found = shop.letters.records().await.len();
        if found == 3 { Ok(()) } else { Err(found.to_string()) }
    })
    .await;
    wait_until("the dead letters are settled", PATIENCE, async || {
        let left = shop.count("dead_letter_of is not null and status <> 'PUBLISHED'").await;
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    })
    .await;
    shop.repeat_letters().await;
    shop.client
        .execute("update outbox_events set headers = null where status = 'FAILED'", &[])
        .await
        .expect("corrected");
    match deed {
        Deed::Retry => drop(shop.call(&["events", "retry", "--all", "--yes"]).run().await.expect_code(0)),
        Deed::Discard => drop(shop.call(&["events", "discard", "--all", "--yes"]).run().await.expect_code(0)),
        Deed::Redrive => {
            let places: Vec<String> = shop.letters.records().await[..3]
                .iter()
                .map(|record| format!("{}/{}/{}", shop.letters.name, record.partition, record.offset))
                .collect();
            let args: Vec<&str> =
                ["dlq", "redrive", "--yes"].into_iter().chain(places.iter().map(String::as_str)).collect();
            shop.call(&args).run().await.expect_code(0);
        }
    }
    let published = if deed == Deed::Discard { 0 } else { 3 };
    wait_until(&format!("{what}: each is published"), PATIENCE, async || {
        let waits = shop.count("status in ('PENDING', 'HELD')").await;
        if waits == 0 { Ok(()) } else { Err(waits.to_string()) }
    })
    .await;
    // All rows go, of events and of dead letters, as the schedule would do it in time.
    let cleanup = ["cleanup", "--older-than", "0s", "--status", "published,failed,discarded", "--yes"];
    wait_until(&format!("{what}: the rows are cleaned up"), PATIENCE, async || {
        shop.call(&cleanup).run().await.expect_code(0);
        let left = shop.count("true").await;
        if left == 0 { Ok(()) } else { Err(format!("{left} rows")) }
    })
    .await;
    let all = shop.letters.records().await;
    assert_eq!(all.len(), 6, "{what}");
    let list = shop.call(&["dlq", "ls", "--dlq", &shop.letters.name]).run().await.expect_code(0).json();
    let expected = if deed == Deed::Discard { "discarded" } else { "redriven" };
    assert_eq!(list.as_array().map(Vec::len), Some(6), "{what}");
    assert!(list.as_array().expect("a list").iter().all(|letter| letter["state"] == expected), "{what}: {list}");
    for record in &all {
        let place = format!("{}/{}/{}", shop.letters.name, record.partition, record.offset);
        let sent = shop.call(&["dlq", "redrive", &place, "--yes"]).run().await.expect_code(0).json();
        assert_eq!(sent["letters"][0]["outcome"], "left-alone", "{what}: {sent}");
    }
    let sent = shop.call(&["dlq", "redrive", "--yes", "--dlq", &shop.letters.name]).run().await.expect_code(0).json();
    assert_eq!(
        (&sent["left_alone"], &sent["reopened"], &sent["appended"]),
        (&6.into(), &0.into(), &0.into()),
        "{what}: {sent}"
    );
    assert_eq!(shop.count("true").await, 0, "{what}");
    relay.terminate().await;
    assert_eq!(shop.topic.records().await.len(), published, "{what}: each once");
}

/// Promise: redrive.
#[tokio::test]
async fn no_dead_letter_undoes_a_decision_at_least_once() {
    let deleted = [Deed::Retry, Deed::Discard, Deed::Redrive].map(|deed| ("delete", deed));
    let cases = deleted.into_iter().chain([("mark", Deed::Redrive)]);
    side_by_side(cases, async |(after_publish, deed)| decided("at-least-once", after_publish, deed).await).await;
}

/// Promise: redrive.
#[tokio::test]
async fn no_dead_letter_undoes_a_decision_exactly_once() {
    let deleted = [Deed::Retry, Deed::Discard, Deed::Redrive].map(|deed| ("delete", deed));
    let cases = deleted.into_iter().chain([("mark", Deed::Retry)]);
    side_by_side(cases, async |(after_publish, deed)| decided("exactly-once", after_publish, deed).await).await;
}

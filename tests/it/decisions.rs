//! What was decided about an event that failed counts for its dead letter as long as that lies in Kafka, also when the
//! row is gone.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::cli::Call;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, Relay, TestDatabase, Topic, outbox_relay, parts::parts, wait_until};

const PATIENCE: Duration = Duration::from_secs(60);

struct Shop {
    database: TestDatabase,
    client: Client,
    topic: Topic,
    letters: Topic,
}

impl Shop {
    async fn open(name: &str) -> Self {
        let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 1));
        let letters = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() };
        let letters = letters.created(1).await;
        let client = database.connect().await;
        Self { database, client, topic, letters }
    }

    async fn relay(&self, after_publish: &str) -> Relay {
        let settings = RelaySettings::new(&self.database, &parts().kafka).steady();
        let settings = settings.set("relay.tracking", "rows").set("relay.after_publish", after_publish);
        settings.set("retry.on_exhausted", "dead-letter").start_ready().await
    }

    fn call(&self, args: &[&str]) -> Call {
        let args = [args, &["-o", "json"]].concat();
        outbox_relay(&args).env("DATABASE_URL", &self.database.url).env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka)
    }

    /// An event that fails, and its dead letter.
    async fn fail(&self, letters: usize) -> i64 {
        let bad = NewRow::new(&self.topic.name, "k", "{}").text("headers", r#"{"a": 1}"#).insert(&self.client).await;
        self.letters.wait_for_records(letters).await;
        bad
    }

    async fn wait_until_gone(&self, id: i64) {
        wait_until("its row is gone", PATIENCE, async || {
            let row = self.client.query_opt("select status from outbox_events where id = $1", &[&id]).await;
            row.expect("a look").map_or(Ok(()), |row| Err(row.get::<_, String>(0)))
        })
        .await;
    }

    async fn expect_left_alone(&self, state: &str) {
        let list = self.call(&["dlq", "ls"]).run().await.expect_code(0).json();
        assert_eq!(list[0]["state"], state, "{list}");
        let sent = self.call(&["dlq", "redrive", "--yes"]).run().await.expect_code(0).json();
        assert_eq!(sent["letters"][0]["outcome"], "left-alone", "{sent}");
        assert_eq!((&sent["reopened"], &sent["appended"]), (&0.into(), &0.into()), "{sent}");
    }
}

#[tokio::test]
async fn an_event_that_was_retried_and_published_is_not_published_again() {
    let shop = Shop::open("decided-retry").await;
    let mut relay = shop.relay("delete").await;
    let bad = shop.fail(1).await;
    shop.client.execute("update outbox_events set headers = null where id = $1", &[&bad]).await.expect("corrected");
    shop.call(&["events", "retry", &bad.to_string(), "--yes"]).run().await.expect_code(0);
    shop.wait_until_gone(bad).await;
    shop.expect_left_alone("redriven").await;
    assert_eq!(shop.topic.wait_for_records(1).await.len(), 1);
    relay.terminate().await;
}

#[tokio::test]
async fn an_event_that_was_given_up_is_not_published_when_its_row_is_gone() {
    let shop = Shop::open("decided-discard").await;
    let mut relay = shop.relay("mark").await;
    let bad = shop.fail(1).await;
    shop.call(&["events", "discard", &bad.to_string(), "--yes"]).run().await.expect_code(0);
    shop.client.execute("delete from outbox_events where id = $1", &[&bad]).await.expect("cleaned up");
    shop.expect_left_alone("discarded").await;
    assert_eq!(shop.topic.records().await.len(), 0);
    relay.terminate().await;
}

/// A decision says nothing of a later failure: its dead letter goes back when the row is gone.
#[tokio::test]
async fn a_dead_letter_that_is_newer_than_the_decision_goes_back() {
    let shop = Shop::open("decided-before").await;
    let mut relay = shop.relay("mark").await;
    let bad = shop.fail(1).await;
    shop.call(&["events", "retry", &bad.to_string(), "--yes"]).run().await.expect_code(0);
    shop.letters.wait_for_records(2).await;
    // Nobody has decided about the second failure, and the row is cleaned up.
    shop.client.execute("delete from outbox_events where id = $1", &[&bad]).await.expect("cleaned up");
    let list = shop.call(&["dlq", "ls"]).run().await.expect_code(0).json();
    let mut states: Vec<&str> =
        list.as_array().expect("a list").iter().map(|letter| letter["state"].as_str().expect("a state")).collect();
    states.sort_unstable();
    assert_eq!(states, ["redriven", "unknown-row"], "{list}");
    relay.terminate().await;
}

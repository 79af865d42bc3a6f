//! `dlq`: dead letters are listed with what became of them, go back once, and are deleted only when somebody decides.

mod redrive;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::cli::Call;
use crate::support::parts::parts;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, unique, wait_until};

/// A topic with its dead-letter topic, and what is in both.
pub struct Shop {
    pub database: TestDatabase,
    pub client: Client,
    pub topic: Topic,
    letters: Topic,
}

impl Shop {
    pub async fn open(name: &str, partitions: i32) -> Self {
        let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 3));
        let letters = Topic { name: format!("{}-dlq", topic.name), bootstrap: topic.bootstrap.clone() };
        let letters = letters.created(partitions).await;
        let client = database.connect().await;
        Self { database, client, topic, letters }
    }

    pub fn dlq(&self, args: &[&str]) -> Call {
        let args = [&["dlq"], args, &["-o", "json"]].concat();
        let call = outbox_relay(&args).env("DATABASE_URL", &self.database.url);
        call.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_CONSUMER__ENABLED", "false")
    }

    /// Rows that used up their attempts, over ten keys, each with its dead letter still to be published.
    pub async fn fail(&self, count: i64) -> Vec<i64> {
        let rows = self
            .client
            .query(
                "insert into outbox_events (aggregate_type, aggregate_id, event_type, topic, payload, headers, status, retry_count, last_error, failed_at) \
                 select 'Order', 'k' || n % 10, 'OrderPaidEvent', $1, jsonb_build_object('n', n), '{\"tenant\": \"a\"}', 'FAILED', 3, 'too-large: x', now() \
                 from generate_series(1, $2::bigint) as n returning id",
                &[&self.topic.name, &count],
            )
            .await
            .expect("failed rows");
        self.client
            .execute(
                "insert into outbox_events (event_id, aggregate_type, aggregate_id, event_type, topic, payload, headers, created_at, dead_letter_of) \
                 select event_id, aggregate_type, aggregate_id, event_type, topic || '-dlq', payload, headers || jsonb_build_object( \
                   'original_topic', topic, 'original_partition', '-1', 'original_offset', '-1', 'exception_class', 'too-large', \
                   'exception_message', 'too-large: x', 'failed_at', to_char(failed_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), 'retry_count', '3'), \
                   created_at, id \
                 from outbox_events where status = 'FAILED' and topic = $1 order by id",
                &[&self.topic.name],
            )
            .await
            .expect("dead letters");
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// A dead letter that a consumer wrote: its event was published.
    fn of_consumer(&self, key: &str) -> NewRow {
        let headers = format!(
            r#"{{"original_topic": "{}", "exception_class": "Poison", "exception_message": "no", "failed_at": "2026-05-01T00:00:00Z", "retry_count": "1", "consumer_group": "g", "ce_type": "OrderPaidEvent", "ce_subject": "{key}"}}"#,
            self.topic.name
        );
        NewRow::new(&self.letters.name, key, r#"{"b": 1.50}"#).text("headers", &headers)
    }

    /// Publishes what waits, with a relay that ends again.
    pub async fn publish(&self) {
        let mut relay = RelaySettings::new(&self.database, &parts().kafka).steady().start_ready().await;
        wait_until("nothing is PENDING", Duration::from_secs(60), async || {
            let pending = "select count(*) from outbox_current where status = 'PENDING'";
            let pending: i64 = self.client.query_one(pending, &[]).await.expect("pending").get(0);
            if pending == 0 { Ok(()) } else { Err(format!("{pending}")) }
        })
        .await;
        relay.terminate().await;
    }

    /// How often each event is in the original topic.
    async fn delivered(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for record in self.topic.records().await {
            *counts.entry(record.header("outbox-event-id").expect("an event id").to_owned()).or_default() += 1;
        }
        counts
    }

    pub async fn expect_each_delivered_once(&self, expected: usize) {
        let delivered = self.delivered().await;
        assert_eq!(delivered.len(), expected, "events in the original topic");
        assert!(delivered.values().all(|count| *count == 1), "{delivered:?}");
    }

    /// Places of all dead letters of the shop, as the command line names them.
    async fn places(&self) -> Vec<String> {
        let letters = self.letters.records().await;
        letters.iter().map(|letter| format!("{}/{}/{}", self.letters.name, letter.partition, letter.offset)).collect()
    }
}

fn states(list: &Value) -> Vec<&str> {
    list.as_array().expect("a list").iter().map(|letter| letter["state"].as_str().expect("a state")).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_and_shown_with_what_became_of_them() {
    let shop = Shop::open("dlq-ls", 2).await;
    let ids = shop.fail(4).await;
    let by_consumer = shop.of_consumer("k9").insert(&shop.client).await;
    shop.publish().await;
    shop.client.execute("update outbox_events set status = 'DISCARDED' where id = $1", &[&ids[1]]).await.unwrap();
    shop.client
        .execute("update outbox_events set status = 'PUBLISHED', published_at = now() where id = $1", &[&ids[2]])
        .await
        .unwrap();
    shop.client.execute("delete from outbox_events where id = $1", &[&ids[3]]).await.unwrap();

    let all = shop.dlq(&["ls"]).run().await.expect_code(0).json();
    let state: HashMap<i64, &str> = all
        .as_array()
        .unwrap()
        .iter()
        .map(|letter| (letter["outbox_id"].as_i64().unwrap(), letter["state"].as_str().unwrap()))
        .collect();
    let expected = [
        (ids[0], "waiting"),
        (ids[1], "discarded"),
        (ids[2], "redriven"),
        (ids[3], "unknown-row"),
        (by_consumer, "unknown-row"),
    ];
    assert_eq!(state, HashMap::from(expected));
    assert_eq!(all.as_array().unwrap().last().unwrap()["consumer_group"], "g", "those that failed last first");
    assert!(!all.to_string().contains("1.50"), "no payload in a list");
    let waiting = all.as_array().unwrap().iter().find(|letter| letter["state"] == "waiting").unwrap();
    assert_eq!(
        (
            &waiting["original_topic"],
            &waiting["exception_class"],
            &waiting["exception_message"],
            &waiting["retry_count"]
        ),
        (&shop.topic.name.as_str().into(), &"too-large".into(), &"too-large: x".into(), &3.into())
    );
    for (args, expected) in [
        (&["--topic", &shop.topic.name][..], 5),
        (&["--class", "Poison"], 1),
        (&["--class", "none"], 0),
        (&["--since", "1h"], 4),
        (&["--until", "2026-06-01"], 1),
        (&["--dlq", &shop.letters.name, "--limit", "2"], 2),
    ] {
        let found = shop.dlq(&[&["ls"], args].concat()).run().await.expect_code(0).json();
        assert_eq!(states(&found).len(), expected, "{args:?}: {found}");
    }

    let place = all
        .as_array()
        .unwrap()
        .last()
        .map(|letter| format!("{}/{}/{}", shop.letters.name, letter["partition"], letter["offset"]))
        .unwrap();
    let shown = shop.dlq(&["show", &place]).run().await.expect_code(0).json();
    assert_eq!((&shown[0]["key"], &shown[0]["value"]), (&"k9".into(), &r#"{"b": 1.50}"#.into()));
    assert!(shown[0]["headers"].as_array().unwrap().iter().any(|header| header[0] == "consumer_group"), "{shown}");
    let text = outbox_relay(&["dlq", "show", &place]).env("DATABASE_URL", &shop.database.url);
    let text = text.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).run().await.expect_code(0).stdout;
    assert!(text.contains("unknown-row") && text.contains("1.50"), "{text}");
}

#[tokio::test]
async fn a_purge_deletes_from_the_beginning_and_spares_what_waits() {
    let shop = Shop::open("dlq-purge", 1).await;
    shop.of_consumer("k").insert(&shop.client).await;
    shop.publish().await;
    shop.fail(5).await;
    shop.publish().await;
    let topic = ["--topic", &shop.topic.name];
    let purge = |args: &[&str]| shop.dlq(&[&["purge"], args].concat());
    let refused = purge(&[&topic[..], &["--yes"]].concat()).run().await.expect_code(6);
    assert!(refused.stderr.contains("6 of 6") && refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(shop.letters.records().await.len(), 6);

    let first = shop.places().await[0].clone();
    shop.dlq(&["redrive", &first, "--yes"]).run().await.expect_code(0);
    // The oldest went back; the first of those that wait ends the purge.
    let dry = purge(&["--older-than", "1d", "--dry-run"]).run().await.expect_code(0).json();
    assert_eq!((&dry[0]["from"], &dry[0]["to"], &dry[0]["dead_letters"]), (&0.into(), &1.into(), &1.into()), "{dry}");
    assert_eq!(shop.letters.records().await.len(), 6, "a dry run deletes nothing");
    let done = purge(&["--older-than", "1d", "--yes", "--reason", "old"]).run().await.expect_code(0).json();
    assert_eq!((&done[0]["deleted"], &done[0]["redriven"]), (&true.into(), &1.into()), "{done}");
    assert_eq!(shop.letters.records().await.len(), 5);
    let noted: i64 = shop.client.query_one("select count(*) from outbox_redriven", &[]).await.unwrap().get(0);
    assert_eq!(noted, 0, "what is deleted is forgotten");

    let third = shop.places().await[2].clone();
    purge(&[&third, "--yes"]).run().await.expect_code(6);
    let done = purge(&[&third, "--yes", "--force"]).run().await.expect_code(0).json();
    assert_eq!((&done[0]["waiting"], &done[0]["dead_letters"]), (&3.into(), &3.into()), "{done}");
    assert_eq!(shop.letters.records().await.len(), 2);
    purge(&[&topic[..], &["--yes", "--force"]].concat()).run().await.expect_code(0);
    assert_eq!(shop.letters.records().await.len(), 0);
    purge(&[&topic[..], &["--yes"]].concat()).run().await.expect_code(6);
    let audit =
        shop.client.query("select reason from outbox_audit where action = 'dlq purge' order by id", &[]).await.unwrap();
    assert_eq!((audit.len(), audit[0].get::<_, Option<String>>(0).as_deref()), (3, Some("old")));
}

#[tokio::test]
async fn bad_input_of_each_command_is_told_with_a_hint() {
    let shop = Shop::open("dlq-bad", 1).await;
    let gone = format!("{}/0/17", shop.letters.name);
    let nowhere = format!("{}/9/0", shop.letters.name);
    for (args, code, says) in [
        (&["ls", "--since", "yesterday"][..], 2, "not a time"),
        (&["ls", "--since", "1h", "--until", "2h"], 2, "OR-U001"),
        (&["ls", "--limit", "0"], 2, "--limit"),
        (&["ls", "--topic", "nobody"], 6, "OR-U002"),
        (&["ls", "--dlq", "nobody"], 6, "OR-U002"),
        (&["show"], 2, "TOPIC/PARTITION/OFFSET"),
        (&["show", "orders-dlq"], 2, "order-events-dlq/0/17"),
        (&["show", &gone], 6, "OR-U002"),
        (&["show", &nowhere], 6, "OR-U002"),
        (&["show", "nobody/0/0"], 6, "OR-U002"),
        (&["redrive", &gone, "--yes"], 6, "OR-U002"),
        (&["redrive", &gone, "--class", "x", "--yes"], 2, "--class"),
        (&["redrive", "--rate", "0", "--yes"], 2, "--rate"),
        (&["redrive", "--yes"], 6, "no dead letter matches"),
        (&["redrive"], 2, "--yes"),
        (&["purge", "--yes"], 2, "--topic"),
        (&["purge", "--older-than", "old", "--yes"], 2, "not a duration"),
        (&["purge", &gone, "--yes"], 6, "OR-U002"),
        (&["purge", "--topic", &shop.topic.name, "--yes"], 6, "OR-U002"),
        (&["purge", "--topic", &shop.topic.name], 2, "--yes"),
    ] {
        let finished = shop.dlq(args).run().await.expect_code(code);
        assert!(finished.stderr.contains(says), "{args:?} does not say {says}:\n{}", finished.stderr);
    }
    let empty = shop.dlq(&["ls"]).run().await.expect_code(0);
    assert_eq!(empty.json(), Value::Array(Vec::new()));
    // Without Kafka there is nothing to look at.
    shop.dlq(&["ls"]).env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1").run().await.expect_code(4);
    let role = unique("poor").replace('-', "_");
    shop.fail(1).await;
    shop.publish().await;
    shop.client
        .batch_execute(&format!("create role {role} login; grant select on all tables in schema public to {role}"))
        .await
        .unwrap();
    let (_, rest) = shop.database.url.split_once('@').expect("a user in the URL");
    let poor = shop.dlq(&["redrive", "--yes"]).env("DATABASE_URL", &format!("postgres://{role}@{rest}"));
    let refused = poor.run().await.expect_code(1);
    assert!(refused.stderr.contains("OR-P003"), "{}", refused.stderr);
    let seen: BTreeSet<String> = shop.delivered().await.into_keys().collect();
    assert!(seen.is_empty(), "{seen:?}");
    let failed = "select count(*) from outbox_current where status = 'FAILED'";
    assert_eq!(shop.client.query_one(failed, &[]).await.unwrap().get::<_, i64>(0), 1);
}

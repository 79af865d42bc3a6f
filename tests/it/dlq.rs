//! `dlq`: dead letters are listed with what became of them, go back once, and are deleted only when somebody decides.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;

use crate::support::cli::Call;
use crate::support::outbox::row;
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, outbox_relay, parts::parts, unique, wait_until};

/// A topic with its dead-letter topic, and what is in both.
pub struct Shop {
    pub database: TestDatabase,
    pub client: Client,
    pub topic: Topic,
    pub letters: Topic,
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
        let mut relay = RelaySettings::new(&self.database, &parts().kafka).start_ready().await;
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

    async fn expect_each_delivered_once(&self, expected: usize) {
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

/// Promise: redrive.
#[tokio::test]
async fn a_redrive_repeated_gives_one_delivery() {
    let shop = Shop::open("dlq-redrive", 2).await;
    let ids = shop.fail(20).await;
    shop.publish().await;
    // Where the claims begin has moved on since, and one row was cleaned up.
    shop.client.execute("update outbox_shards set low_id = 1000000", &[]).await.unwrap();
    shop.client.execute("delete from outbox_events where id = $1", &[&ids[7]]).await.unwrap();
    let dry = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--dry-run"]).run().await.expect_code(0).json();
    assert_eq!((&dry["reopened"], &dry["appended"]), (&19.into(), &1.into()), "{dry}");
    assert_eq!(row(&shop.client, ids[0]).await.status, "FAILED", "a dry run changes nothing");
    let noted = "select count(*) from outbox_redriven";
    assert_eq!(shop.client.query_one(noted, &[]).await.unwrap().get::<_, i64>(0), 0);

    let done = shop
        .dlq(&["redrive", "--topic", &shop.topic.name, "--yes", "--reason", "fixed"])
        .run()
        .await
        .expect_code(0)
        .json();
    assert_eq!((&done["reopened"], &done["appended"], &done["refused"]), (&19.into(), &1.into(), &0.into()), "{done}");
    let open = row(&shop.client, ids[0]).await;
    assert_eq!((open.status.as_str(), open.retry_count, open.last_error), ("PENDING", 0, None));
    let again = shop.dlq(&["redrive", "--yes"]).run().await.expect_code(0).json();
    assert_eq!(
        (&again["reopened"], &again["appended"], &again["left_alone"]),
        (&0.into(), &0.into(), &20.into()),
        "{again}"
    );
    shop.publish().await;
    shop.expect_each_delivered_once(20).await;
    // And when all is published.
    shop.dlq(&["redrive", "--yes"]).run().await.expect_code(0);
    shop.publish().await;
    shop.expect_each_delivered_once(20).await;
    let listed = shop.dlq(&["ls"]).run().await.expect_code(0).json();
    assert!(states(&listed).iter().all(|state| *state == "redriven"), "{listed}");
    let audit = shop
        .client
        .query("select reason, details::text from outbox_audit where action = 'dlq redrive'", &[])
        .await
        .unwrap();
    assert_eq!((audit.len(), audit[0].get::<_, Option<String>>(0).as_deref()), (1, Some("fixed")));

    // It fails again: a new dead letter, which goes back as well; the old one stays where it is.
    shop.client
        .execute(
            "update outbox_events set status = 'FAILED', last_error = 'x', failed_at = now() where id = $1",
            &[&ids[0]],
        )
        .await
        .unwrap();
    shop.client
        .execute(
            "insert into outbox_events (event_id, aggregate_id, event_type, topic, payload, headers, dead_letter_of) \
             select event_id, aggregate_id, event_type, $2, payload, jsonb_build_object('original_topic', topic, 'failed_at', failed_at::text), id \
             from outbox_events where id = $1",
            &[&ids[0], &shop.letters.name],
        )
        .await
        .unwrap();
    shop.publish().await;
    let second = shop.dlq(&["redrive", "--yes"]).run().await.expect_code(0).json();
    assert_eq!((&second["reopened"], &second["left_alone"]), (&1.into(), &20.into()), "{second}");
}

/// Promise: redrive.
#[tokio::test]
async fn a_dead_letter_without_a_row_becomes_the_event_that_it_was() {
    let shop = Shop::open("dlq-append", 1).await;
    let raw =
        shop.of_consumer("k1").without("payload").sql("payload_raw", r"'\x7b7dff'").text("created_at", "2026-04-01");
    let raw = raw.insert(&shop.client).await;
    shop.of_consumer("k2").without("payload").insert(&shop.client).await;
    shop.publish().await;
    let before = shop.letters.records().await;
    let done = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--yes"]).run().await.expect_code(0).json();
    assert_eq!(done["appended"], 2, "{done}");
    shop.publish().await;
    let after = shop.topic.wait_for_records(2).await;
    for letter in &before {
        let event = after.iter().find(|event| event.key == letter.key).expect("the same key");
        assert_eq!((&event.value, event.timestamp_ms), (&letter.value, letter.timestamp_ms));
        for name in ["outbox-event-id", "ce_type", "ce_subject", "ce_id", "ce_time", "content-type"] {
            assert_eq!(event.header(name), letter.header(name), "{name}");
        }
        for name in
            ["original_topic", "exception_class", "exception_message", "failed_at", "retry_count", "consumer_group"]
        {
            assert_eq!(event.header(name), None, "{name}");
        }
        assert_ne!(event.outbox_id(), raw, "a row of its own");
    }
}

/// Promise: redrive.
#[tokio::test]
async fn two_redrives_at_once_and_one_that_is_killed_send_each_dead_letter_back_once() {
    let shop = Shop::open("dlq-two", 3).await;
    let ids = shop.fail(600).await;
    shop.publish().await;
    // Half of them have no row any more.
    shop.client.execute("delete from outbox_events where id = any($1) and id % 2 = 0", &[&ids]).await.unwrap();
    let killed = shop.dlq(&["redrive", "--yes", "--rate", "100"]).start();
    wait_until("some went back", Duration::from_secs(30), async || {
        let noted: i64 = shop.client.query_one("select count(*) from outbox_redriven", &[]).await.unwrap().get(0);
        if noted >= 20 { Ok(()) } else { Err(format!("{noted}")) }
    })
    .await;
    killed.signal("KILL");
    killed.finish().await;
    let before: i64 = shop.client.query_one("select count(*) from outbox_redriven", &[]).await.unwrap().get(0);
    assert!(before < 600, "{before} when it was killed");

    let (one, two) =
        tokio::join!(shop.dlq(&["redrive", "--yes"]).run(), shop.dlq(&["redrive", "--yes", "--rate", "1000"]).run());
    let went = |finished: &Value| finished["reopened"].as_i64().unwrap() + finished["appended"].as_i64().unwrap();
    let (one, two) = (one.expect_code(0).json(), two.expect_code(0).json());
    assert_eq!(went(&one) + went(&two) + before, 600, "those that were left: {} and {}", went(&one), went(&two));
    shop.publish().await;
    shop.expect_each_delivered_once(600).await;
}

/// The other process has noted the dead letter and not committed yet: nothing but the note itself tells.
#[tokio::test]
async fn a_dead_letter_that_another_process_has_in_hand_is_left_to_it() {
    let mut shop = Shop::open("dlq-race", 1).await;
    let id = shop.fail(1).await[0];
    shop.publish().await;
    shop.client.execute("delete from outbox_events where id = $1", &[&id]).await.unwrap();
    let watch = shop.database.connect().await;
    let redrive = shop.dlq(&["redrive", "--topic", &shop.topic.name, "--yes"]);
    let letter = shop.letters.records().await.remove(0);
    let other = shop.client.transaction().await.unwrap();
    other
        .execute(
            "insert into outbox_redriven (topic, partition, \"offset\", event_id, failed_at, actor) values ($1, 0, 0, $2::text::uuid, $3, 'other')",
            &[&shop.letters.name, &letter.header("outbox-event-id"), &letter.header("failed_at")],
        )
        .await
        .unwrap();
    let running = redrive.start();
    wait_until("it waits for the other", Duration::from_secs(30), async || {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        let waiting: i64 = watch.query_one(waiting, &[]).await.unwrap().get(0);
        if waiting == 1 { Ok(()) } else { Err(format!("{waiting}")) }
    })
    .await;
    other.commit().await.unwrap();
    let done = running.finish().await.expect_code(0).json();
    assert_eq!((&done["appended"], &done["left_alone"]), (&0.into(), &1.into()), "{done}");
    let pending = "select count(*) from outbox_current where status = 'PENDING'";
    assert_eq!(watch.query_one(pending, &[]).await.unwrap().get::<_, i64>(0), 0);
}

/// What `docs/roles.sql` gives to people who redrive and replay is what they need.
#[tokio::test]
async fn the_operator_of_the_documented_roles_can_redrive_and_replay() {
    let shop = Shop::open("dlq-role", 1).await;
    let ids = shop.fail(2).await;
    shop.publish().await;
    shop.client.execute("delete from outbox_events where id = $1", &[&ids[1]]).await.unwrap();
    let role = unique("operator").replace('-', "_");
    let script = std::fs::read_to_string(crate::support::repository().join("docs/roles.sql")).unwrap();
    let own = script.lines().filter(|line| line.contains("outbox_operator") && !line.starts_with("--"));
    let own: String =
        own.map(|line| line.replace("outbox_operator", &role).replace("nologin", "login") + "\n").collect();
    shop.client.batch_execute(&own).await.expect("the statements of docs/roles.sql");
    let (_, rest) = shop.database.url.split_once('@').expect("a user in the URL");
    let url = format!("postgres://{role}@{rest}");
    let done = shop
        .dlq(&["redrive", "--topic", &shop.topic.name, "--yes"])
        .env("DATABASE_URL", &url)
        .run()
        .await
        .expect_code(0)
        .json();
    assert_eq!((&done["reopened"], &done["appended"]), (&1.into(), &1.into()), "{done}");
    shop.publish().await;
    let purge =
        shop.dlq(&["purge", "--topic", &shop.topic.name, "--yes"]).env("DATABASE_URL", &url).run().await.expect_code(0);
    assert!(!purge.stderr.contains("outbox_redriven"), "{}", purge.stderr);
    let replay = outbox_relay(&["replay", "--topic", &shop.topic.name, "--yes"]).env("DATABASE_URL", &url);
    replay.run().await.expect_code(0);
    let copies = "select count(*) from outbox_events where replay_of is not null";
    assert_eq!(shop.client.query_one(copies, &[]).await.unwrap().get::<_, i64>(0), 2);
}

/// A restored backup: the row that failed waits again, and so does its dead letter, whose record names the same id.
#[tokio::test]
async fn recover_takes_no_dead_letter_for_the_event_itself() {
    let shop = Shop::open("dlq-recover", 1).await;
    let failed = shop.fail(1).await[0];
    shop.publish().await;
    let letter: i64 = shop
        .client
        .query_one("select id from outbox_events where dead_letter_of = $1", &[&failed])
        .await
        .unwrap()
        .get(0);
    shop.client
        .batch_execute(
            "update outbox_events set status = 'PENDING', published_at = null, last_error = null; \
             update outbox_shards set batch_seq = 3, marked = true, batch_ids = array(select id from outbox_events order by id), \
               owner = null, lease_until = null \
             where shard = (select min(shard) from outbox_events)",
        )
        .await
        .unwrap();
    let deployment = unique("recovered");
    let recover = outbox_relay(&["recover", "--from-kafka", "--apply"]).env("DATABASE_URL", &shop.database.url);
    let recover =
        recover.env("KAFKA_BOOTSTRAP_SERVERS", &parts().kafka).env("OUTBOX_RELAY_RUN__DEPLOYMENT", &deployment);
    recover.run().await.expect_code(0);
    assert_eq!(row(&shop.client, letter).await.status, "PUBLISHED", "its record is there");
    assert_eq!(row(&shop.client, failed).await.status, "PENDING", "it never came to its topic");
}

#[tokio::test]
async fn what_cannot_go_back_is_told_and_the_others_go() {
    let shop = Shop::open("dlq-refused", 1).await;
    let ids = shop.fail(3).await;
    let nowhere = shop.of_consumer("k").text("headers", r#"{"exception_class": "Poison", "consumer_group": "g"}"#);
    nowhere.insert(&shop.client).await;
    let missing = Topic::planned("missing");
    shop.of_consumer("k")
        .text("headers", &format!(r#"{{"original_topic": "{}", "consumer_group": "g"}}"#, missing.name))
        .insert(&shop.client)
        .await;
    shop.publish().await;
    shop.client.execute("update outbox_events set status = 'DISCARDED' where id = $1", &[&ids[1]]).await.unwrap();
    shop.client
        .execute("insert into outbox_held_keys (first_id, shard, partition_key, reason) select id, shard, 'k3', 'failed' from outbox_events where id = $1", &[&ids[2]])
        .await
        .unwrap();
    let done = shop.dlq(&["redrive", "--yes"]).run().await.expect_code(5);
    let said = done.json();
    assert_eq!((&said["reopened"], &said["left_alone"], &said["refused"]), (&1.into(), &1.into(), &3.into()), "{said}");
    for part in ["OR-U003", "original_topic", &missing.name, &format!("events retry {}", ids[2])] {
        assert!(done.stderr.contains(part), "it does not say {part}:\n{}", done.stderr);
    }
    assert_eq!(row(&shop.client, ids[2]).await.status, "FAILED");
    // Refused is not noted as gone back.
    let noted: i64 = shop.client.query_one("select count(*) from outbox_redriven", &[]).await.unwrap().get(0);
    assert_eq!(noted, 1);
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

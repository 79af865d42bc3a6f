//! Records that Kafka refuses in transactions: all of them are found in a few, wherever they are. And topics that a
//! transaction cannot have.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::acl::{Operation, forbid, strict_kafka};
use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, counts, most_attempts};
use crate::support::relay::RelaySettings;
use crate::support::{TestDatabase, Topic, order, parts::parts, side_by_side, unique, wait_until};

/// A busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

fn relay(database: &TestDatabase, bootstrap: &str, mode: &str) -> RelaySettings {
    RelaySettings::new(database, bootstrap)
        .set("relay.delivery", mode)
        .set("run.deployment", &unique("refusals"))
        .set("relay.lease", "60s")
        .set("telemetry.log_filter", "info,outbox_relay::broker::transaction::search=debug")
}

/// Longer ahead than the topic allows, and so little that the relay leaves the decision to the broker.
const A_LITTLE_LATE: &str = "now() + '1 hour'::interval + '50 seconds'::interval";

async fn topic_of_an_hour(name: &str, partitions: i32) -> Topic {
    Topic::planned(name).created_with(partitions, &[("message.timestamp.after.max.ms", "3600000")]).await
}

/// As many rows with keys of their own; `refused` says by `n` which ones Kafka refuses.
async fn insert(client: &Client, topic: &Topic, count: i64, refused: &str) {
    let statement = format!(
        "insert into outbox_events (aggregate_id, event_type, topic, payload, created_at) \
         select 'k' || n, 'E', '{}', '{{}}', case when {refused} then {A_LITTLE_LATE} else now() end \
         from generate_series(1, {count}) n",
        topic.name
    );
    client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
}

async fn wait_for_counts(client: &Client, what: &str, wanted: &[(&str, i64)]) {
    wait_until(what, PATIENCE, async || {
        let counts = counts(client).await;
        let right = |(status, count): &(&str, i64)| counts.get(*status).copied().unwrap_or(0) == *count;
        if wanted.iter().all(right) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

/// Kafka says which ones of a request it refuses, if there are several. Random places, every share of the records, and
/// all of them: the transactions that it takes to find them do not grow with their number.
#[tokio::test]
async fn refused_records_are_found_in_a_few_transactions_wherever_they_are() {
    // In one of four partitions of eight shards there may be a single one, which Kafka does not tell from its
    // neighbours: it takes a few more.
    let cases = [("n % 2 = 0", 2_000), ("true", 4_000), ("hashtext(n::text) % 10 = 0", -1), ("n % 100 <> 7", 3_960)];
    for (refused, expected) in cases {
        let (database, topic) = tokio::join!(TestDatabase::migrated("found"), topic_of_an_hour("found", 4));
        let client = database.connect().await;
        insert(&client, &topic, 4_000, refused).await;
        let bad: i64 = client
            .query_one("select count(*) from outbox_events where created_at > now() + '30 minutes'::interval", &[])
            .await
            .expect("a count")
            .get(0);
        assert!(expected < 0 || bad == expected, "{refused}: {bad}");
        let relay = relay(&database, &parts().kafka, "exactly-once").set("relay.batch_rows", "500").start_ready().await;
        wait_for_counts(&client, refused, &[("PUBLISHED", 4_000 - bad), ("FAILED", bad)]).await;
        assert_eq!(topic.records().await.len(), usize::try_from(4_000 - bad).expect("a few"), "{refused}");
        let text = relay.log_text();
        let rounds = text.matches("searched for rejected records").count();
        // Eight shards, each with one batch or two; two rounds for each, or four where one is alone among good ones.
        assert!(rounds <= 64, "{refused}: {rounds} transactions to find {bad} records");
    }
}

/// What a topic refuses by its settings is known after the first refusal, however many records it is.
#[tokio::test]
async fn a_limit_that_was_lowered_costs_one_refusal() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("lowered"), Topic::create("lowered", 2));
    let client = database.connect().await;
    let relay = relay(&database, &parts().kafka, "exactly-once").start_ready().await;
    insert(&client, &topic, 100, "false").await;
    wait_for_counts(&client, "the topic is known", &[("PUBLISHED", 100)]).await;
    topic.set("max.message.bytes", "2000").await;
    let noise = "to_jsonb((select string_agg(md5(n::text || i::text), '') from generate_series(1, 300) i))";
    let statement = format!(
        "insert into outbox_events (aggregate_id, event_type, topic, payload) \
         select 'l' || n, 'E', '{}', case when n % 2 = 0 then {noise} else '{{}}'::jsonb end from generate_series(1, 2000) n",
        topic.name
    );
    client.batch_execute(&statement).await.expect("rows");
    wait_for_counts(&client, "good and bad ones are told apart", &[("PUBLISHED", 1_100), ("FAILED", 1_000)]).await;
    // A search for each lane at most, and one that was under way: from then on the topic's settings tell.
    relay.wait_for_log("\"round\":1,").await;
    let searches = relay.log_text().matches("\"round\":1,").count();
    assert!(searches <= 16, "{searches} searches");
    assert_eq!(topic.records().await.len(), 1_100);
}

/// The topic can be seen and not be written to: in a transaction its partitions cannot even be added, and the client
/// does not say which of them it was. The keys of that topic wait, all others flow, and a grant lets them go.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_topic_that_can_be_seen_and_not_be_written_to_holds_its_own_keys_alone() {
    let kafka = strict_kafka().await;
    side_by_side(["exactly-once", "at-least-once"], async |mode| {
        let database = TestDatabase::migrated("seen").await;
        let denied = Topic::create_on(&kafka.bootstrap, "seen", 2).await;
        let free = Topic::create_on(&kafka.bootstrap, "free", 2).await;
        let client = database.connect().await;
        forbid(&denied, Operation::Write, true).await;
        let relay = relay(&database, &kafka.bootstrap, mode).start_ready().await;
        // By turns, so that every batch has both.
        let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload) \
            select t.kind || n % 20, 'E', t.topic, '{}' from generate_series(1, 500) n, \
              (values ('denied-', $1::text), ('free-', $2::text)) t (kind, topic)";
        client.execute(statement, &[&denied.name, &free.name]).await.expect("rows");
        wait_for_counts(&client, mode, &[("PUBLISHED", 500), ("HELD", 500)]).await;
        let reasons = "select count(*) from outbox_held_keys where reason = 'denied' and topic = $1";
        let held: i64 = client.query_one(reasons, &[&denied.name]).await.expect("a count").get(0);
        assert_eq!(held, 20, "{mode}");
        forbid(&denied, Operation::Write, false).await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 1_000)]).await;
        let sent = sent_ids(&[denied.records().await, free.records().await].concat());
        order::check(&committed_ids(&client).await, &sent).expect_kept().expect_no_repeats();
        assert_eq!(most_attempts(&client).await, 0, "{mode}: a grant that is missing is no attempt");
        drop(relay);
    })
    .await;
}

/// A topic goes away while records for it are on their way, and is made anew.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_topic_that_is_deleted_in_flight_holds_its_own_keys_alone() {
    side_by_side(["exactly-once", "at-least-once"], async |mode| {
        let database = TestDatabase::migrated("deleted").await;
        let gone = Topic::create("deleted", 2).await;
        let stays = Topic::create("stays", 2).await;
        let client = database.connect().await;
        let relay = relay(&database, &parts().kafka, mode).set("relay.unknown_topic_grace", "600s").start_ready().await;
        let insert = async |from: i64, to: i64| {
            let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload) \
                select t.kind || n % 20, 'E', t.topic, '{}' from generate_series($3::bigint, $4::bigint) n, \
                  (values ('gone-', $1::text), ('stays-', $2::text)) t (kind, topic)";
            client.execute(statement, &[&gone.name, &stays.name, &from, &to]).await.expect("rows");
        };
        insert(1, 100).await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 200)]).await;
        gone.delete().await;
        insert(101, 600).await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 700), ("HELD", 500)]).await;
        let reasons = "select count(*) from outbox_held_keys where topic = $1";
        let held: i64 = client.query_one(reasons, &[&gone.name]).await.expect("a count").get(0);
        assert_eq!(held, 20, "{mode}");
        let made = Topic { name: gone.name.clone(), bootstrap: gone.bootstrap.clone() }.created(2).await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 1_200)]).await;
        let ids: Vec<i64> = made.records().await.iter().map(crate::support::kafka::Record::outbox_id).collect();
        assert_eq!(ids.len(), 500, "{mode}");
        // Records on their way to it are given up as soon as the cluster says so, unless the relay knew before it sent
        // them. The client itself would take half a minute longer.
        if mode == "at-least-once" {
            let log = relay.log_text();
            assert!(!log.contains("the client gave up records"), "{log}");
        }
    })
    .await;
}

/// `max.message.bytes` is for batches of records: a topic with a small limit takes many small records all the same.
///
/// Promise: bad-events.
#[tokio::test]
async fn a_topic_with_a_small_limit_takes_many_small_records() {
    side_by_side(["exactly-once", "at-least-once"], async |mode| {
        let database = TestDatabase::migrated("small-limit").await;
        let small = Topic::planned("small-limit").created_with(2, &[("max.message.bytes", "3000")]).await;
        let usual = Topic::create("usual-limit", 2).await;
        let client = database.connect().await;
        // Incompressible, and 200 bytes each.
        let statement = "insert into outbox_events (aggregate_id, event_type, topic, payload) \
            select 'k' || n % 50, 'E', t.topic, to_jsonb(md5(n::text) || md5(random()::text) || md5(random()::text)) \
            from generate_series(1, 1000) n, (values ($1::text), ($2::text)) t (topic)";
        client.execute(statement, &[&small.name, &usual.name]).await.expect("rows");
        let relay = relay(&database, &parts().kafka, mode).start_ready().await;
        wait_for_counts(&client, mode, &[("PUBLISHED", 2_000)]).await;
        assert!(!relay.log_text().contains("searching for the ones at fault"), "{mode}: {}", relay.log_text());
        let sent = sent_ids(&small.records().await);
        assert!(sent.values().all(|ids| ids.is_sorted() && ids.len() == 20), "{mode}");
    })
    .await;
}

//! Positions of the consumer that cannot be believed any more: PostgreSQL that went back, topics made anew, hands,
//! groups with another name. The judge is always the same: a table is what its events make of it, or the partition is
//! stopped with a reason.

use std::time::Duration;

use serde_json::Value;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::cli::Finished;
use crate::support::relay::RelaySettings;
use crate::support::{
    PrivatePostgres, Relay, StopMode, TestDatabase, Topic, http, outbox_relay, parts::parts, unique, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// A topic of likes, a database and a group.
pub struct Likes {
    pub database: TestDatabase,
    pub topic: Topic,
    pub group: String,
}

impl Likes {
    pub async fn new(name: &str, partitions: i32) -> Self {
        let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, partitions));
        Self { database, topic, group: unique(name) }
    }

    pub fn settings(&self) -> RelaySettings {
        self.settings_with("")
    }

    /// With more lines in the file.
    pub fn settings_with(&self, more: &str) -> RelaySettings {
        let file = format!(
            "[consumer]\ngroup = \"{}\"\ntopics = [\"{}\"]\n[kafka.properties]\n\"session.timeout.ms\" = \"45000\"\n{more}",
            self.group, self.topic.name
        );
        RelaySettings::new(&self.database, &parts().kafka).file(&file).only("consumer,admin")
    }

    /// Writes events that like `product`, round and round over the partitions. Returns their ids.
    pub async fn like(&self, product: i64, count: usize, partitions: i32) -> Vec<Uuid> {
        let events: Vec<_> =
            (0..count).map(|_| (Uuid::new_v4(), "LikeAddedEvent", format!(r#"{{"productId": {product}}}"#))).collect();
        let ids = events.iter().map(|(id, ..)| *id).collect();
        self.write(events, partitions).await;
        ids
    }

    pub async fn write(&self, events: Vec<(Uuid, &'static str, String)>, partitions: i32) {
        self.topic.write_events(events, partitions).await;
    }

    /// The topic is deleted and created again under its name.
    pub async fn recreate(&self, partitions: i32) {
        self.topic.delete().await;
        self.topic.clone().created(partitions).await;
    }

    /// A command of this group.
    pub async fn command(&self, args: &[&str]) -> Finished {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        outbox_relay(&args)
            .env("DATABASE_URL", &self.database.url)
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.topic.bootstrap)
            .env("OUTBOX_RELAY_CONSUMER__GROUP", &self.group)
            .run()
            .await
    }

    pub async fn wait_for_likes(&self, client: &Client, product: i64, likes: i64) {
        wait_until(&format!("{likes} likes of {product}"), PATIENCE, async || {
            let now = likes_of(client, product).await;
            if now == likes { Ok(()) } else { Err(format!("{now} likes, {:?}", stops(client).await)) }
        })
        .await;
    }
}

pub async fn likes_of(client: &Client, product: i64) -> i64 {
    let sql = "select coalesce(sum(like_count), 0)::bigint from product_metrics where product_id = $1";
    client.query_one(sql, &[&product]).await.expect("product_metrics").get(0)
}

/// Reason and words of what is stopped, by partition.
pub async fn stops(client: &Client) -> Vec<(i32, String)> {
    let sql =
        "select partition, stopped_reason from consumer_partitions where stopped_reason is not null order by 1, 2";
    client.query(sql, &[]).await.expect("stops").iter().map(|row| (row.get(0), row.get(1))).collect()
}

pub async fn wait_for_stops(client: &Client, expected: &[(i32, &str)]) {
    let expected: Vec<(i32, String)> =
        expected.iter().map(|(partition, reason)| (*partition, (*reason).to_owned())).collect();
    wait_until(&format!("{expected:?} are stopped"), PATIENCE, async || {
        let now = stops(client).await;
        if now == expected { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

/// Waits until `/readyz?verbose` of the instance holds these words.
pub async fn wait_for_readiness(consumer: &Relay, words: &str) {
    wait_until(&format!("readiness says {words}"), PATIENCE, async || {
        let Some(admin) = consumer.try_admin() else { return Err("no server yet".to_owned()) };
        let (_, text) = http::get(admin, "/readyz?verbose").await.map_err(|error| error.to_string())?;
        if text.contains(words) { Ok(()) } else { Err(text) }
    })
    .await;
}

/// Every fold is committed without waiting for the disk. A crash takes the last of them back while nothing is going on,
/// and the next record must not be folded as if they had never been.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn folds_that_a_crash_takes_back_from_an_idle_partition_are_folded_again() {
    let postgres = PrivatePostgres::start().await;
    let database = TestDatabase::migrated_at(&postgres.url).await;
    let likes = Likes { database, topic: Topic::create("idle-crash", 2).await, group: unique("idle-crash") };
    let client = likes.database.connect().await;
    for statement in ["alter system set wal_writer_delay = '10s'", "select pg_reload_conf()"] {
        client.batch_execute(statement).await.unwrap();
    }
    let consumer = likes.settings().start_ready().await;
    likes.like(1, 20, 2).await;
    likes.wait_for_likes(&client, 1, 20).await;
    client.batch_execute("checkpoint").await.unwrap();
    likes.like(1, 10, 1).await;
    likes.wait_for_likes(&client, 1, 30).await;
    postgres.restart(StopMode::Crash).await;
    let client = likes.database.reconnect().await;
    let lost = likes_of(&client, 1).await;
    likes.like(1, 1, 1).await;
    likes.wait_for_likes(&client, 1, 31).await;
    assert!(stops(&client).await.is_empty());
    // What was lost is told in one line; a machine that is fast enough to flush loses nothing.
    let words = "PostgreSQL lost its most recent commits";
    if lost < 30 {
        consumer.wait_for_log(words).await;
    }
    let told = consumer.log_text().matches(words).count();
    assert!(told <= 1, "lost {lost}, told {told}");
}

/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_while_nobody_reads_is_found_out_by_its_last_record() {
    let likes = Likes::new("remade-longer", 1).await;
    let client = likes.database.connect().await;
    let mut consumer = likes.settings().start_ready().await;
    likes.like(1, 50, 1).await;
    likes.wait_for_likes(&client, 1, 50).await;
    consumer.terminate().await;
    likes.recreate(1).await;
    // Longer than the old position, so that nothing else tells the two logs apart.
    likes.like(1, 120, 1).await;
    let consumer = likes.settings().start();
    wait_for_stops(&client, &[(0, "topic-recreated")]).await;
    wait_for_readiness(&consumer, "topic-recreated").await;
    assert_eq!(likes_of(&client, 1).await, 50, "nothing is folded before somebody decides");
    consumer.wait_for_metric("outbox_relay_consumer_partitions_stopped", |stopped| stopped == 1.0).await;
    let lag = likes.command(&["lag", "--fail-over", "100000"]).await.expect_code(6);
    assert_eq!(lag.json()["consumer"]["partitions"][0]["state"], "topic-recreated", "{}", lag.stdout);
    let topic = likes.topic.name.clone();
    likes.command(&["consumer", "positions", "accept", "--topic", &topic, "--yes"]).await.expect_code(0);
    likes.wait_for_likes(&client, 1, 170).await;
    consumer.wait_for_readiness(200, "").await;
}

/// The client itself reads on in the new log as if it were the old one.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_while_it_is_read_stops_its_partitions() {
    let likes = Likes::new("remade-running", 2).await;
    let client = likes.database.connect().await;
    let consumer = likes.settings().start_ready().await;
    likes.like(1, 20, 2).await;
    likes.wait_for_likes(&client, 1, 20).await;
    likes.recreate(2).await;
    // Longer than the old one in both partitions, at once.
    likes.like(1, 100, 2).await;
    wait_for_stops(&client, &[(0, "topic-recreated"), (1, "topic-recreated")]).await;
    wait_for_readiness(&consumer, "topic-recreated").await;
    let topic = likes.topic.name.clone();
    likes.command(&["consumer", "positions", "accept", "--topic", &topic, "--yes"]).await.expect_code(0);
    // Whatever was folded before it was noticed counts once.
    likes.wait_for_likes(&client, 1, 120).await;
}

/// A restart does not forget that a partition is stopped, and the others flow.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_outlives_a_restart_and_concerns_its_own_partition() {
    let likes = Likes::new("one-of-two", 2).await;
    let client = likes.database.connect().await;
    let mut consumer = likes.settings().start_ready().await;
    likes.like(1, 20, 2).await;
    likes.wait_for_likes(&client, 1, 20).await;
    consumer.terminate().await;
    likes.like(1, 20, 2).await;
    likes.topic.delete_records_before(1, 15).await;
    let mut consumer = likes.settings().start();
    wait_for_stops(&client, &[(1, "records-lost")]).await;
    likes.wait_for_likes(&client, 1, 30).await;
    consumer.terminate().await;
    let consumer = likes.settings().start();
    wait_for_readiness(&consumer, "the records from 10 to 14 are gone").await;
    likes.like(1, 1, 1).await;
    likes.wait_for_likes(&client, 1, 31).await;
    let topic = likes.topic.name.clone();
    let listed = likes.command(&["consumer", "positions", "ls"]).await.expect_code(0).json();
    assert_eq!((&listed[1]["state"], &listed[1]["next_offset"]), (&Value::from("records-lost"), &Value::from(10)));
    let accept = ["consumer", "positions", "accept", "--topic", &topic, "--partition", "1"];
    let planned = likes.command(&[&accept[..], &["--dry-run"]].concat()).await.expect_code(0).json();
    assert_eq!(planned["positions"][0]["to"], 15, "{planned}");
    assert_eq!(stops(&client).await.len(), 1, "a dry run changes nothing");
    likes.command(&[&accept[..], &["--yes", "--reason", "known"]].concat()).await.expect_code(0);
    likes.wait_for_likes(&client, 1, 36).await;
    let audited = "select count(*) from outbox_audit where action = 'consumer positions accept' and reason = 'known'";
    assert_eq!(client.query_one(audited, &[]).await.unwrap().get::<_, i64>(0), 1);
}

/// What the page on OR-K003 once told people to do, and in the middle of work.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_set_back_by_hand_while_it_is_read_is_read_again() {
    let likes = Likes::new("set-back", 1).await;
    let client = likes.database.connect().await;
    let consumer = likes.settings().start_ready().await;
    likes.like(1, 100, 1).await;
    likes.wait_for_likes(&client, 1, 100).await;
    // Somebody builds the read model anew.
    client
        .batch_execute(
            "begin; truncate product_metrics, event_handled; update consumer_partitions set next_offset = 0; commit",
        )
        .await
        .unwrap();
    likes.like(1, 10, 1).await;
    likes.wait_for_likes(&client, 1, 110).await;
    consumer.wait_for_log("set back by hand").await;
    assert!(stops(&client).await.is_empty());
}

/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_set_forward_by_hand_while_it_is_read_asks_first() {
    let likes = Likes::new("set-forward", 1).await;
    let client = likes.database.connect().await;
    let consumer = likes.settings().start_ready().await;
    likes.like(1, 50, 1).await;
    likes.wait_for_likes(&client, 1, 50).await;
    client.batch_execute("update consumer_partitions set next_offset = 55").await.unwrap();
    likes.like(1, 20, 1).await;
    wait_until("it is stopped, or had folded them before", PATIENCE, async || {
        let (stopped, likes) = (stops(&client).await, likes_of(&client, 1).await);
        if stopped == [(0, "moved-by-hand".to_owned())] { Ok(()) } else { Err(format!("{stopped:?}, {likes}")) }
    })
    .await;
    assert_eq!(likes_of(&client, 1).await, 50);
    wait_for_readiness(&consumer, "from 50 to 55").await;
    let (topic, set) = (likes.topic.name.clone(), ["consumer", "positions", "set", "--partition", "0", "--topic"]);
    likes.command(&[&set[..], &[&topic, "--offset", "71", "--yes"]].concat()).await.expect_code(2);
    likes.command(&[&set[..], &[&topic, "--offset", "50", "--yes"]].concat()).await.expect_code(0);
    likes.wait_for_likes(&client, 1, 70).await;
    // And forward by command, while it is read: that was meant.
    likes.like(1, 5, 1).await;
    likes.wait_for_likes(&client, 1, 75).await;
    likes.command(&[&set[..], &[&topic, "--offset", "0", "--yes"]].concat()).await.expect_code(0);
    wait_until("it was read again", PATIENCE, async || {
        let sql = "select next_offset from consumer_partitions";
        let next: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        if next == 75 { Ok(()) } else { Err(format!("at {next}")) }
    })
    .await;
    assert_eq!(likes_of(&client, 1).await, 75);
}

/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_with_another_name_asks_before_it_counts_everything_again() {
    let mut likes = Likes::new("renamed", 2).await;
    let client = likes.database.connect().await;
    let mut consumer = likes.settings().start_ready().await;
    likes.like(1, 40, 2).await;
    likes.wait_for_likes(&client, 1, 40).await;
    consumer.terminate().await;
    likes.like(1, 10, 2).await;
    let old = std::mem::replace(&mut likes.group, unique("renamed"));
    let consumer = likes.settings().start();
    wait_for_stops(&client, &[(0, "other-group"), (1, "other-group")]).await;
    wait_for_readiness(&consumer, &old).await;
    assert_eq!(likes_of(&client, 1).await, 40);
    let moved = likes.command(&["consumer", "positions", "set", "--from-group", &old, "--yes"]).await.expect_code(0);
    assert_eq!(moved.json()["handled"], 40, "{}", moved.stdout);
    likes.wait_for_likes(&client, 1, 50).await;
    // Nothing of the old name is left that could be counted again.
    let left = "select (select count(*) from consumer_partitions where consumer_group = $1) \
                + (select count(*) from event_handled where consumer_group = $1)";
    assert_eq!(client.query_one(left, &[&old]).await.unwrap().get::<_, i64>(0), 0);
}

/// Two groups that fold the same topics into tables of their own are what somebody may want.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_group_begins_when_it_is_told_to() {
    let mut likes = Likes::new("second", 1).await;
    let client = likes.database.connect().await;
    let mut consumer = likes.settings().start_ready().await;
    likes.like(1, 10, 1).await;
    likes.wait_for_likes(&client, 1, 10).await;
    consumer.terminate().await;
    likes.group = unique("second");
    let mut consumer = likes.settings().start();
    wait_for_stops(&client, &[(0, "other-group")]).await;
    let topic = likes.topic.name.clone();
    likes.command(&["consumer", "positions", "accept", "--topic", &topic, "--yes"]).await.expect_code(0);
    likes.wait_for_likes(&client, 1, 20).await;
    consumer.terminate().await;
    likes.group = unique("third");
    let _consumer = likes.settings().set("consumer.start", "anew").start_ready().await;
    likes.wait_for_likes(&client, 1, 30).await;
}

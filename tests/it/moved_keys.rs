//! The key of a waiting event is changed: by an operator who corrects it, or by the application. Whatever its state,
//! the tracking and the shard of its new key, the event is published once, and so is what waited behind it.

use std::time::Duration;

use tokio_postgres::Client;

use crate::support::outbox::{insert_many, wait_for_status, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{
    NewRow, Relay, TestDatabase, Topic, outbox_relay, parts::parts, side_by_side, unique, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const TRACKINGS: [&str; 2] = ["rows", "watermark"];

/// Runs a case with both ways of tracking, each with and without what its flag stands for. The two share a relay.
async fn in_every_way(case: impl AsyncFn(&'static str, [(bool, &'static str); 2])) {
    side_by_side(TRACKINGS, async |tracking| case(tracking, [(true, "one"), (false, "two")]).await).await;
}

struct Stage {
    database: TestDatabase,
    topic: Topic,
    client: Client,
    settings: RelaySettings,
}

impl Stage {
    async fn new(name: &str, tracking: &str) -> Self {
        let (database, topic) = tokio::join!(TestDatabase::migrated(name), Topic::create(name, 3));
        let client = database.connect().await;
        let settings = RelaySettings::new(&database, &parts().kafka)
            .steady()
            .set("relay.tracking", tracking)
            .set("run.deployment", &unique(name));
        Self { database, topic, client, settings }
    }

    /// A relay, and every shard has published something.
    async fn start(&self) -> Relay {
        let relay = self.settings.start_ready().await;
        self.flow().await;
        relay
    }

    /// Events of other keys are published.
    async fn flow(&self) {
        insert_many(&self.client, &self.topic.name, 100, 200).await;
        let left = "select count(*) from outbox_current where aggregate_id like 'k%' and status <> 'PUBLISHED'";
        wait_until("the other keys flow", PATIENCE, async || {
            let left: i64 = self.client.query_one(left, &[]).await.expect("a count").get(0);
            if left == 0 { Ok(()) } else { Err(left.to_string()) }
        })
        .await;
    }

    async fn shard_of(&self, key: &str) -> i16 {
        self.client.query_one("select outbox_shard_of($1, 0)", &[&key]).await.expect("a shard").get(0)
    }

    /// A key that is in the shard of `key`, or in another one.
    async fn key_near(&self, key: &str, same_shard: bool) -> String {
        let shard = self.shard_of(key).await;
        for n in 0.. {
            let other = format!("{key}-corrected-{n}");
            if (self.shard_of(&other).await == shard) == same_shard {
                return other;
            }
        }
        unreachable!("one key in eight is in the shard")
    }

    async fn change_key(&self, id: i64, key: &str) {
        let change = "update outbox_events set aggregate_id = $2 where id = $1";
        assert_eq!(self.client.execute(change, &[&id, &key]).await.expect("the change"), 1);
    }

    async fn insert(&self, key: &str) -> i64 {
        NewRow::new(&self.topic.name, key, "{}").insert(&self.client).await
    }

    /// One that fails: its headers are no strings.
    async fn insert_bad(&self, key: &str) -> i64 {
        let bad = NewRow::new(&self.topic.name, key, "{}").text("headers", r#"{"a": 1}"#);
        let id = bad.insert(&self.client).await;
        wait_for_status(&self.client, id, "FAILED").await;
        id
    }

    async fn retry(&self, id: i64) {
        let id = id.to_string();
        outbox_relay(&["events", "retry", &id, "--yes"])
            .env("DATABASE_URL", &self.database.url)
            .run()
            .await
            .expect_code(0);
    }

    async fn expect_sent_once(&self, ids: &[i64]) {
        let records = self.topic.records().await;
        for id in ids {
            let sent = records.iter().filter(|record| record.outbox_id() == *id).count();
            assert_eq!(sent, 1, "event {id}");
        }
    }
}

/// The shard that it comes to has passed its id.
///
/// Promise: retry-order.
#[tokio::test]
async fn a_pending_event_is_found_in_a_shard_that_has_passed_its_id() {
    in_every_way(async |tracking, flags| {
        let stage = Stage::new("moved-pending", tracking).await;
        let mut relay = stage.start().await;
        relay.terminate().await;
        let mut all = Vec::new();
        for (passed, waiting) in flags {
            let key = stage.key_near(waiting, false).await;
            let moved = stage.insert(waiting).await;
            if passed {
                let done = if tracking == "watermark" { moved } else { 0 };
                let pass = "update outbox_shards set low_id = $2::bigint + 1, done_id = $3::bigint where shard = $1";
                let shard = stage.shard_of(&key).await;
                assert_eq!(stage.client.execute(pass, &[&shard, &moved, &done]).await.expect("passed"), 1);
            }
            all.extend([moved, stage.insert(waiting).await]);
            stage.change_key(moved, &key).await;
        }
        let mut relay = stage.settings.start_ready().await;
        for id in &all {
            wait_for_status(&stage.client, *id, "PUBLISHED").await;
        }
        stage.flow().await;
        relay.terminate().await;
        stage.expect_sent_once(&all).await;
        relay.expect_no_error_lines();
        let left = "select count(*) from outbox_again";
        assert_eq!(stage.client.query_one(left, &[]).await.expect("a count").get::<_, i64>(0), 0, "{tracking}");
    })
    .await;
}

/// The watermark of its new shard may be below it.
///
/// Promise: retry-order.
#[tokio::test]
async fn a_published_event_stays_published_when_its_key_changes() {
    for tracking in TRACKINGS {
        let stage = Stage::new("moved-published", tracking).await;
        let mut relay = stage.start().await;
        let moved = stage.insert("done").await;
        wait_for_status(&stage.client, moved, "PUBLISHED").await;
        relay.terminate().await;
        let key = stage.key_near("done", false).await;
        if tracking == "watermark" {
            let behind = "update outbox_shards set low_id = least(low_id, $2::bigint), done_id = least(done_id, $2::bigint - 1) where shard = $1";
            stage.client.execute(behind, &[&stage.shard_of(&key).await, &moved]).await.expect("it is behind");
        }
        stage.change_key(moved, &key).await;
        let mut relay = stage.settings.start_ready().await;
        wait_for_status(&stage.client, moved, "PUBLISHED").await;
        stage.flow().await;
        relay.terminate().await;
        stage.expect_sent_once(&[moved]).await;
        relay.expect_no_error_lines();
    }
}

/// It waits behind a failed event, gets another key, and has nobody to wait for any more.
///
/// Promise: retry-order.
#[tokio::test]
async fn a_held_event_is_released_under_its_new_key() {
    in_every_way(async |tracking, flags| {
        let stage = Stage::new("moved-held", tracking).await;
        let mut relay = stage.start().await;
        let mut sent = Vec::new();
        for (same_shard, stuck) in flags {
            let failed = stage.insert_bad(stuck).await;
            let moved = stage.insert(stuck).await;
            let behind = stage.insert(stuck).await;
            for id in [moved, behind] {
                wait_for_status(&stage.client, id, "HELD").await;
            }
            stage.flow().await;
            stage.change_key(moved, &stage.key_near(stuck, same_shard).await).await;
            wait_for_status(&stage.client, moved, "PUBLISHED").await;
            wait_for_status(&stage.client, behind, "HELD").await;
            wait_for_status(&stage.client, failed, "FAILED").await;
            sent.push(moved);
        }
        relay.terminate().await;
        stage.expect_sent_once(&sent).await;
        relay.expect_no_error_lines();
    })
    .await;
}

/// It holds its key itself, until its time. Long enough that it is seen to wait on a machine that stalls.
///
/// Promise: retry-order.
#[tokio::test]
async fn a_delayed_event_is_published_under_its_new_key_and_so_is_what_waited_behind_it() {
    in_every_way(async |tracking, flags| {
        let stage = Stage::new("moved-delayed", tracking).await;
        let mut relay = stage.start().await;
        let mut all = Vec::new();
        for (_, later) in flags {
            let delayed = NewRow::new(&stage.topic.name, later, "{}").sql("available_at", "now() + interval '15 s'");
            all.push((delayed.insert(&stage.client).await, stage.insert(later).await));
        }
        for (delayed, behind) in &all {
            for id in [delayed, behind] {
                wait_for_status(&stage.client, *id, "HELD").await;
            }
        }
        stage.flow().await;
        for ((same_shard, later), (delayed, _)) in flags.into_iter().zip(&all) {
            stage.change_key(*delayed, &stage.key_near(later, same_shard).await).await;
        }
        let all: Vec<i64> = all.into_iter().flat_map(|(delayed, behind)| [delayed, behind]).collect();
        for id in &all {
            wait_for_status(&stage.client, *id, "PUBLISHED").await;
        }
        relay.terminate().await;
        stage.expect_sent_once(&all).await;
        relay.expect_no_error_lines();
    })
    .await;
}

/// As the operations guide advises for a key that is too long.
///
/// Promise: retry-order.
#[tokio::test]
async fn a_failed_event_is_published_under_its_corrected_key_and_so_is_what_waited_behind_it() {
    in_every_way(async |tracking, flags| {
        let stage = Stage::new("moved-failed", tracking).await;
        let mut relay = stage.start().await;
        let mut all = Vec::new();
        for (same_shard, wrong) in flags {
            let long = stage.insert(&wrong.repeat(13_000)).await;
            wait_for_status(&stage.client, long, "FAILED").await;
            let failed = stage.insert_bad(wrong).await;
            let behind = [stage.insert(wrong).await, stage.insert(wrong).await];
            for id in behind {
                wait_for_status(&stage.client, id, "HELD").await;
            }
            stage.flow().await;
            stage.change_key(long, &stage.key_near(&format!("short-{wrong}"), same_shard).await).await;
            stage.retry(long).await;
            wait_for_status(&stage.client, long, "PUBLISHED").await;

            let corrected = "update outbox_events set headers = null where id = $1";
            stage.client.execute(corrected, &[&failed]).await.expect("a correction");
            stage.change_key(failed, &stage.key_near(wrong, same_shard).await).await;
            stage.retry(failed).await;
            for id in [failed, behind[0], behind[1]] {
                wait_for_status(&stage.client, id, "PUBLISHED").await;
            }
            all.extend([long, failed, behind[0], behind[1]]);
        }
        wait_until_published(&stage.database, PATIENCE).await;
        relay.terminate().await;
        stage.expect_sent_once(&all).await;
        relay.expect_no_error_lines();
    })
    .await;
}

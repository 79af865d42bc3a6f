//! What the consumer waits for in its topics and in PostgreSQL.

use std::time::Duration;

use rdkafka::producer::Producer as _;

use crate::positions::Likes;
use crate::support::{Topic, http, unique, wait_until};

use super::stage::{PATIENCE, Ready, Says, Stage, readiness};

const CONSUMER: Says<'_> = Says { part: "consumer", situation: "", ready: Ready::No, lag: 6, words: "", since: false };

/// Writes likes of product 1.
async fn like(stage: &Stage, count: usize) {
    let events = (0..count).map(|_| (uuid::Uuid::new_v4(), "LikeAddedEvent", r#"{"productId": 1}"#.to_owned()));
    let (database, topic, group) = (stage.database.clone(), stage.topic.clone(), stage.group.clone());
    Likes { database, topic, group }.write(events.collect(), 1).await;
}

async fn wait_for_likes(stage: &Stage, likes: i64) {
    let client = stage.database.connect().await;
    wait_until(&format!("{likes} likes"), PATIENCE, async || {
        let sum = "select coalesce(sum(like_count), 0)::bigint from product_metrics";
        let now: i64 = client.query_one(sum, &[]).await.map_err(|error| error.to_string())?.get(0);
        if now == likes { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
}

/// Kafka hands out nothing behind it, and it is no failure of the threshold: what waits is counted.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_of_another_producer() {
    let stage = Stage::new("truth-open").await;
    let process = stage.settings("consumer,admin").start_ready().await;
    like(&stage, 2).await;
    wait_for_likes(&stage, 2).await;
    let open = stage.topic.open_transaction(500).await;
    let place = format!("{}/0", stage.topic.name);
    let note = Says { situation: "open-transaction", ready: Ready::Yes, lag: 0, since: true, ..CONSUMER };
    stage.expect(&process, &note).await;
    let over = stage.command(&["lag", "-o", "json", "--fail-over", "10"]).run().await.expect_code(6);
    assert!(over.stderr.contains("500 records behind"), "{}", over.stderr);
    process.wait_for_log(&place).await;
    readiness(&process, &Says { ready: Ready::No, ..note }).await;
    let abort = move || open.abort_transaction(PATIENCE).expect("aborted");
    tokio::task::spawn_blocking(abort).await.expect("no panic");
    stage.expect_over(&process, &note).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumed_topic_that_is_misspelt_or_deleted() {
    let misspelt = unique("truth-misspelt");
    let stage = Stage::new("truth-missing").await.reading(&misspelt);
    let process = stage.settings("consumer,admin").start();
    let words = format!("the topic {misspelt} does not exist");
    let missing = Says { situation: "missing-topic", words: &words, ..CONSUMER };
    stage.expect(&process, &missing).await;
    let made = Topic { name: misspelt.clone(), bootstrap: stage.topic.bootstrap.clone() }.created(1).await;
    stage.expect_over(&process, &missing).await;
    made.delete().await;
    wait_until("readiness names the topic that was deleted", PATIENCE, async || {
        match http::get(process.admin(), "/readyz?verbose").await? {
            (503, body) if body.contains(&words) => Ok(()),
            (status, body) => Err(format!("{status} {body}")),
        }
    })
    .await;
    assert!(stage.lag().await.expect_code(6).stderr.contains(&words));
}

/// Nothing is folded, and the gauge of lag says nothing rather than what it was before.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_that_somebody_has_locked() {
    let stage = Stage::new("truth-locked").await;
    let process = stage.settings("consumer,admin").start_ready().await;
    like(&stage, 2).await;
    wait_for_likes(&stage, 2).await;
    let mut client = stage.database.connect().await;
    let lock = client.transaction().await.expect("a transaction");
    lock.batch_execute("lock table product_metrics in exclusive mode").await.expect("the lock");
    like(&stage, 3).await;
    let locked = Says { situation: "locked", lag: 0, words: "product_metrics", since: true, ..CONSUMER };
    stage.expect(&process, &locked).await;
    wait_until("the gauge of lag is absent", PATIENCE, async || {
        let (_, text) = http::get(process.admin(), "/metrics").await?;
        let lag = text.lines().find(|line| line.starts_with("outbox_relay_consumer_lag_records{"));
        lag.map_or(Ok(()), |line| Err(line.to_owned()))
    })
    .await;
    lock.rollback().await.expect("rollback");
    stage.expect_over(&process, &locked).await;
    wait_for_likes(&stage, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_postgresql_refuses() {
    let stage = Stage::new("truth-refused").await;
    let process = stage.settings("consumer,admin").start_ready().await;
    like(&stage, 2).await;
    wait_for_likes(&stage, 2).await;
    let client = stage.database.connect().await;
    client.batch_execute("alter table product_metrics rename to elsewhere").await.expect("renamed");
    like(&stage, 3).await;
    wait_until("readiness names it", PATIENCE, async || match http::get(process.admin(), "/readyz?verbose").await? {
        (503, body) if body.contains("(projection-refused since 20") => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    })
    .await;
    // From outside it is a position that does not move.
    client.batch_execute("update consumer_partitions set updated_at = now() - interval '1 hour'").await.expect("old");
    let stalled = Says { situation: "stalled", lag: 0, since: true, ..CONSUMER };
    stage.expect_of_commands(&stalled).await;
    client.batch_execute("alter table elsewhere rename to product_metrics").await.expect("renamed back");
    wait_for_likes(&stage, 5).await;
    stage.expect_over(&process, &Says { situation: "projection-refused", ..CONSUMER }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_waits_for_a_decision() {
    let stage = Stage::new("truth-stopped").await;
    let process = stage.settings("consumer,admin").start_ready().await;
    like(&stage, 10).await;
    wait_for_likes(&stage, 10).await;
    let client = stage.database.connect().await;
    client.batch_execute("update consumer_partitions set next_offset = 2000").await.expect("moved");
    let stopped = Says { situation: "position-stopped", since: true, ..CONSUMER };
    stage.expect(&process, &stopped).await;
    let accept = ["consumer", "positions", "accept", "--topic", &stage.topic.name, "--yes"];
    stage.command(&accept).run().await.expect_code(0);
    stage.expect_over(&process, &stopped).await;
}

/// Where only a consumer runs, nobody else deletes its entries of `event_handled`.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_alone_cleans_up_what_it_has_handled() {
    let stage = Stage::new("truth-handled").await;
    let settings = stage.settings("consumer,admin").set("cleanup.interval", "1s");
    let settings = settings.set("cleanup.published_older_than", "1m").set("cleanup.handled_older_than", "1m");
    let process = settings.start_ready().await;
    like(&stage, 5).await;
    wait_for_likes(&stage, 5).await;
    let client = stage.database.connect().await;
    client.batch_execute("update event_handled set handled_at = now() - interval '1 hour'").await.expect("old");
    // Its pages have just been looked at: the next look comes when the youngest entry is old enough.
    wait_until("nothing is left", Duration::from_secs(180), async || {
        let left: i64 = client.query_one("select count(*) from event_handled", &[]).await.expect("a count").get(0);
        if left == 0 { Ok(()) } else { Err(format!("{left} entries")) }
    })
    .await;
    process.wait_for_metric("outbox_relay_cleanup_deleted_rows_total", |rows| rows >= 5.0).await;
}

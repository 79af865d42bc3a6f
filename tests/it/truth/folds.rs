//! Folds that take long, and partitions that another instance has taken.

use uuid::Uuid;

use super::stage::{PATIENCE, Ready, Says, Stage, metrics, one_log_line, readiness};
use crate::positions::Likes;
use crate::support::{Relay, http, wait_until};

const CONSUMER: Says<'_> = Says { part: "consumer", situation: "", ready: Ready::No, lag: 0, words: "", since: false };

async fn like(stage: &Stage, count: usize) {
    let events = (0..count).map(|_| (Uuid::new_v4(), "LikeAddedEvent", r#"{"productId": 1}"#.to_owned()));
    let (database, topic, group) = (stage.database.clone(), stage.topic.clone(), stage.group.clone());
    Likes { database, topic, group }.write(events.collect(), 1).await;
}

async fn wait_for_likes(stage: &Stage, likes: i64) {
    let client = stage.database.connect().await;
    let sum = "select coalesce(sum(like_count), 0)::bigint from product_metrics";
    wait_until(&format!("{likes} likes"), PATIENCE, async || {
        let now: i64 = client.query_one(sum, &[]).await.map_err(|error| error.to_string())?.get(0);
        if now == likes { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
}

/// The gauges of lag.
async fn lags(process: &Relay) -> Result<Vec<String>, String> {
    let (_, text) = http::get(process.admin(), "/metrics").await?;
    let lags = text.lines().filter(|line| line.starts_with("outbox_relay_consumer_lag_records{"));
    Ok(lags.map(str::to_owned).collect())
}

/// A trigger of the read model that works until somebody opens the gate.
const SLOW_TRIGGER: &str = "create table gate (open boolean); \
    create function wait_for_gate() returns trigger language plpgsql as $$ begin \
        while not exists (select from gate) loop perform from generate_series(1, 100000); end loop; return new; end $$; \
    create trigger slow before insert or update on product_metrics for each row execute function wait_for_gate()";

#[tokio::test(flavor = "multi_thread")]
async fn a_fold_that_takes_long() {
    let stage = Stage::new("truth-slow").await;
    let process = stage.settings("consumer,admin").set("database.statement_timeout", "10m").start_ready().await;
    like(&stage, 2).await;
    wait_for_likes(&stage, 2).await;
    let client = stage.database.connect().await;
    client.batch_execute(SLOW_TRIGGER).await.expect("a trigger");
    like(&stage, 3).await;
    let place = format!("{}/0", stage.topic.name);
    let slow = Says { situation: "slow-fold", ..CONSUMER };
    readiness(&process, &Says { words: &place, ..slow }).await;
    stage.expect(&process, &slow).await;
    assert!(lags(&process).await.expect("metrics").is_empty(), "nobody knows how far it is");
    stage.expect_of_commands(&Says { since: true, ..slow }).await;
    client.batch_execute("insert into gate values (true)").await.expect("open");
    stage.expect_over(&process, &slow).await;
    wait_for_likes(&stage, 5).await;
}

/// Readiness, gauges and the log of the loser say so. It cannot be seen from outside: the group says that the loser
/// still has it.
#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_another_instance_took() {
    let stage = Stage::new("truth-taken").await;
    let process = stage.settings("consumer,admin").start_ready().await;
    like(&stage, 2).await;
    wait_for_likes(&stage, 2).await;
    let place = format!("{}/0", stage.topic.name);
    let client = stage.database.connect().await;
    client.batch_execute("update consumer_partitions set epoch = epoch + 1").await.expect("taken");
    let taken = Says { situation: "taken-elsewhere", ready: Ready::Yes, words: &place, ..CONSUMER };
    readiness(&process, &taken).await;
    metrics(&process, &taken).await;
    one_log_line(&process, "is waiting:", &taken).await;
    assert!(lags(&process).await.expect("metrics").is_empty(), "whoever has it says how far it is");
    let lag = stage.lag().await.expect_code(0);
    assert!(!lag.stdout.contains("taken-elsewhere"), "{}", lag.stdout);
    // After 45 s without a rebalance nobody else may be reading it, so it is taken back.
    stage.expect_over(&process, &taken).await;
    like(&stage, 1).await;
    wait_for_likes(&stage, 3).await;
    wait_until("its lag is known again", PATIENCE, async || {
        let lags = lags(&process).await?;
        if lags.len() == 1 { Ok(()) } else { Err(format!("{lags:?}")) }
    })
    .await;
}

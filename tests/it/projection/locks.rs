//! What keeps the consumer waiting is told for what it is: a lock that somebody keeps on a read model, a group that
//! cannot be joined.

use std::time::Duration;

use super::kafka::Bench;
use super::*;
use crate::support::member::Member;
use crate::support::wait_until;

const PATIENCE: Duration = Duration::from_secs(90);

/// Promise: read-model-locks.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_the_read_model_is_told_as_a_lock() {
    let bench = Bench::new("locked", 2).await;
    bench.client.batch_execute("create table copies (n bigint)").await.expect("a table");
    let copies = projection("copies", &["Other"], "insert into copies select \"offset\" from new_events");
    let running = bench.start_with(vec![Projection::product_metrics(), copies]);
    bench.produce_likes(2, 2).await;
    bench.wait_for_likes(2).await;
    let running = running.ready().await;
    let epochs = "select sum(epoch)::bigint from consumer_partitions";
    let before = number(&bench.client, epochs).await;

    let mut holder = bench.test.connect().await;
    let pid = number(&holder, "select pg_backend_pid()::bigint").await;
    let transaction = holder.transaction().await.expect("begin");
    transaction.batch_execute("lock table product_metrics in exclusive mode").await.expect("the lock");
    // Likes in the first partition wait for the lock, other events in the second one do not.
    let mixed = |n: usize| {
        let kind = if n.is_multiple_of(2) { "LikeAddedEvent" } else { "Other" };
        (Uuid::new_v4(), kind, r#"{"productId": 1}"#.to_owned())
    };
    let copied = async |count: i64| {
        wait_until(&format!("{count} other events are folded"), PATIENCE, async || {
            let now = number(&bench.client, "select count(*) from copies").await;
            if now == count { Ok(()) } else { Err(format!("{now}")) }
        })
        .await;
    };
    bench.produce((0..20).map(mixed).collect(), 2).await;
    copied(10).await;
    running.wait_for_reason(&format!("waits for a lock on product_metrics held by PostgreSQL process {pid}")).await;
    bench.produce((0..20).map(mixed).collect(), 2).await;
    copied(20).await;
    transaction.rollback().await.expect("rollback");
    bench.wait_for_likes(22).await;
    bench.wait_for_offset(42).await;
    let running = running.ready().await;
    assert_eq!(number(&bench.client, epochs).await, before, "no partition was taken away or given up meanwhile");
    running.stop().await.expect("a clean stop");
}

/// A relation that lasts as long as its session would keep the database from forgetting old transactions.
#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_keeps_no_temporary_table() {
    let bench = Bench::new("no-temp", 1).await;
    let running = bench.start();
    bench.produce_likes(5, 1).await;
    bench.wait_for_likes(5).await;
    let sessions = "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'outbox-relay consumer'";
    assert!(number(&bench.client, sessions).await > 0, "its sessions are open");
    assert_eq!(number(&bench.client, "select count(*) from pg_class where relpersistence = 't'").await, 0);
    running.stop().await.expect("a clean stop");
}

/// Another member of the group assigns partitions in a way that this one does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_be_joined_is_named() {
    let bench = Bench::new("cooperative", 1).await;
    let mut config = bench.kafka.clone();
    config.set("group.id", &bench.settings.group).set("partition.assignment.strategy", "cooperative-sticky");
    let other = Member::join(&config, &bench.topic.name);
    other.joined(PATIENCE).await;
    let running = bench.start();
    running.wait_for_reason("InconsistentGroupProtocol").await;
    other.leave().await;
    bench.produce_likes(3, 1).await;
    bench.wait_for_likes(3).await;
    running.ready().await.stop().await.expect("a clean stop");
}

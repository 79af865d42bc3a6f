//! Each reason to distrust a position, with the others out of the way: a test here fails when its own check is missing.

use std::time::Duration;

use outbox_relay::projection::fold::{End, fold_batch};
use uuid::Uuid;

use crate::positions::{Likes, likes_of, stops, wait_for_readiness, wait_for_stops};
use crate::projection::{StoreBench, likes, number, product_metrics};
use crate::support::{PrivatePostgres, StopMode, TestDatabase, Topic, unique, wait_until};

const PATIENCE: Duration = Duration::from_secs(90);

/// Crashes until one has taken commits back: a machine that is busy at the wrong moment may have flushed them.
const CRASHES: usize = 6;

/// 20 likes in the topic are folded and the consumer is stopped; then `change` is made to its position, the topic is
/// deleted, created again and gets more records than before.
async fn stopped_and_remade(name: &str, change: &str) -> Likes {
    let bench = Likes::new(name, 1).await;
    let client = bench.database.connect().await;
    let mut consumer = bench.settings().start_ready().await;
    bench.like(1, 20, 1).await;
    bench.wait_for_likes(&client, 1, 20).await;
    let noted = "select count(*) from consumer_partitions \
                 where cluster_id is not null and topic_id is not null and last_digest is not null and last_offset = 19";
    assert_eq!(number(&client, noted).await, 1, "the position knows what it rests on");
    consumer.terminate().await;
    client.batch_execute(change).await.expect("a change");
    bench.recreate(1).await;
    bench.like(1, 60, 1).await;
    bench
}

/// Brokers before 2.8 have no ids of topics.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn another_record_in_place_of_the_last_one_stops_the_partition_by_itself() {
    let bench = stopped_and_remade("by-record", "update consumer_partitions set topic_id = null").await;
    let client = bench.database.connect().await;
    let consumer = bench.settings().start();
    wait_for_stops(&client, &[(0, "topic-recreated")]).await;
    wait_for_readiness(&consumer, "offset 19 holds a different record").await;
    assert_eq!(likes_of(&client, 1).await, 20, "nothing is folded before somebody decides");
}

/// Retention or compaction may have removed the last record that was folded.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn another_id_of_the_topic_stops_the_partition_by_itself() {
    let forget = "update consumer_partitions set last_offset = null, last_digest = null, last_recorded_at = null";
    let bench = stopped_and_remade("by-id", forget).await;
    let client = bench.database.connect().await;
    let consumer = bench.settings().start();
    wait_for_stops(&client, &[(0, "topic-recreated")]).await;
    wait_for_readiness(&consumer, "the topic was deleted and recreated").await;
    assert_eq!(likes_of(&client, 1).await, 20, "nothing is folded before somebody decides");
}

/// A mirror has the same records at the same offsets, and may lack some of the last ones.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_stops_the_partition_until_it_is_accepted() {
    let bench = Likes::new("by-cluster", 1).await;
    let client = bench.database.connect().await;
    let mut consumer = bench.settings().start_ready().await;
    bench.like(1, 20, 1).await;
    bench.wait_for_likes(&client, 1, 20).await;
    consumer.terminate().await;
    let elsewhere = "update consumer_partitions set cluster_id = 'another', topic_id = null";
    client.batch_execute(elsewhere).await.expect("a change");
    bench.like(1, 5, 1).await;
    let consumer = bench.settings().start();
    wait_for_stops(&client, &[(0, "other-cluster")]).await;
    wait_for_readiness(&consumer, "different Kafka cluster").await;
    assert_eq!(likes_of(&client, 1).await, 20, "nothing is folded before somebody decides");
    let topic = bench.topic.name.clone();
    bench.command(&["consumer", "positions", "accept", "--topic", &topic, "--yes"]).await.expect_code(0);
    bench.wait_for_likes(&client, 1, 25).await;
}

/// A decision is noticed by looking, long before a stopped partition would be taken again by itself.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_consumer_notices_decisions_about_stopped_and_idle_partitions() {
    let bench = Likes::new("decided", 2).await;
    let client = bench.database.connect().await;
    let mut consumer = bench.settings().start_ready().await;
    bench.like(1, 20, 2).await;
    bench.wait_for_likes(&client, 1, 20).await;
    consumer.terminate().await;
    bench.like(1, 20, 2).await;
    bench.topic.delete_records_before(1, 15).await;
    let consumer = bench.settings().start();
    wait_for_stops(&client, &[(1, "records-lost")]).await;
    wait_for_readiness(&consumer, "records-lost").await;
    bench.wait_for_likes(&client, 1, 30).await;
    let (topic, epochs) = (bench.topic.name.clone(), "select sum(epoch)::bigint from consumer_partitions");
    let before = number(&client, epochs).await;
    bench.command(&["consumer", "positions", "accept", "--topic", &topic, "--yes"]).await.expect_code(0);
    bench.wait_for_likes(&client, 1, 35).await;
    assert!(stops(&client).await.is_empty());
    assert_eq!(number(&client, epochs).await, before + 1, "the partition was taken once, for the decision");
    // One that is read and gets no records.
    let set = ["consumer", "positions", "set", "--partition", "0", "--offset", "0", "--yes", "--topic", &topic];
    bench.command(&set).await.expect_code(0);
    let next = "select next_offset from consumer_partitions where partition = 0";
    wait_until("it was read again", PATIENCE, async || match number(&client, next).await {
        20 => Ok(()),
        next => Err(format!("at {next}")),
    })
    .await;
    assert_eq!(likes_of(&client, 1).await, 35, "known events change nothing");
    consumer.wait_for_log("the position was changed by a command").await;
    let log = consumer.log_text();
    assert!(!log.contains("lost its most recent commits"), "{log}");
}

/// A server whose commits that do not wait are lost by a crash.
async fn forgetful_server() -> PrivatePostgres {
    let postgres = PrivatePostgres::start().await;
    let client = TestDatabase { url: postgres.url.clone() }.connect().await;
    for statement in ["alter system set wal_writer_delay = '10s'", "select pg_reload_conf()"] {
        client.batch_execute(statement).await.expect("a setting");
    }
    postgres
}

/// The consumer alone, without a look between the crash and the next fold.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_fold_never_passes_folds_that_a_crash_has_taken_back() {
    let postgres = forgetful_server().await;
    let bench = StoreBench::at(TestDatabase::migrated_at(&postgres.url).await).await;
    let (epoch, mut next, mut lost) = (bench.take().await, 0, 0);
    for crashes in 1.. {
        let client = bench.test.reconnect().await;
        client.batch_execute("checkpoint").await.expect("a checkpoint");
        let folded = fold_batch(&bench.store, &bench.place, epoch, next, &likes(next..next + 10)).await;
        assert!(matches!(folded.end, End::Done), "{folded:?}");
        postgres.restart(StopMode::Crash).await;
        let client = bench.test.reconnect().await;
        let believed = next + 10;
        let folded = fold_batch(&bench.store, &bench.place, epoch, believed, &likes(believed..believed + 1)).await;
        let found = number(&client, "select next_offset from consumer_partitions").await;
        let sum = number(&client, "select coalesce(sum(like_count), 0)::bigint from product_metrics").await;
        assert_eq!(sum, found, "the table is the fold of all records before the position");
        match folded.end {
            End::Done => assert_eq!(found, believed + 1, "nothing was lost"),
            End::Elsewhere(Some(standing)) => {
                assert!(standing.next_offset == found && found == next, "{standing:?}, at {found}");
                lost += 1;
            }
            end @ (End::Elsewhere(None) | End::Failed(_)) => panic!("{end:?}"),
        }
        next = found;
        if crashes > 1 && lost > 0 {
            break;
        }
        assert!(crashes < 2 * CRASHES, "no crash has taken anything back");
    }
}

/// Every fold is committed without waiting for the disk. Eight partitions are idle when the crash takes the last folds
/// back, and then single records arrive.
///
/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn single_records_after_a_crash_find_idle_partitions_where_postgresql_has_them() {
    const PARTITIONS: i32 = 8;
    let postgres = forgetful_server().await;
    let database = TestDatabase::migrated_at(&postgres.url).await;
    let bench =
        Likes { database, topic: Topic::create("idle-crashes", PARTITIONS).await, group: unique("idle-crashes") };
    let mut client = bench.database.connect().await;
    let consumer = bench.settings().start_ready().await;
    let (mut all, words) = (0, "PostgreSQL lost its most recent commits");
    for crashes in 1.. {
        client.batch_execute("checkpoint").await.expect("a checkpoint");
        bench.like(1, 80, PARTITIONS).await;
        all += 80;
        bench.wait_for_likes(&client, 1, all).await;
        postgres.restart(StopMode::Crash).await;
        client = bench.database.reconnect().await;
        bench.like(1, 1, 1).await;
        all += 1;
        bench.wait_for_likes(&client, 1, all).await;
        if crashes > 1 && consumer.log_text().contains(words) {
            break;
        }
        assert!(crashes < 2 * CRASHES, "no crash has taken anything back: {}", consumer.log_text());
    }
    assert!(stops(&client).await.is_empty());
}

/// A group may have a position for each projection, and an event may be parked for each of them.
#[tokio::test]
async fn positions_and_parked_events_are_told_apart_by_their_projection() {
    let bench = StoreBench::product_metrics("per-projection").await;
    let epoch = bench.take().await;
    let moved = "insert into consumer_partitions (consumer_group, topic, partition, projection, epoch, next_offset) \
                 select consumer_group, topic, partition, $1, 7, 5 from consumer_partitions where projection is null";
    bench.client.execute(moved, &[&"trend"]).await.expect("a position of another projection");
    bench.client.execute(moved, &[&"trend"]).await.expect_err("two positions of one projection");
    let again = "insert into consumer_partitions (consumer_group, topic, partition, epoch, next_offset) \
                 select consumer_group, topic, partition, 9, 9 from consumer_partitions limit 1";
    bench.client.execute(again, &[]).await.expect_err("two positions of all projections");

    let records = [crate::projection::record(0, Uuid::new_v4(), "LikeAddedEvent", "no JSON")];
    let folded = fold_batch(&bench.store, &bench.place, epoch, 0, &records).await;
    assert!(matches!(folded.end, End::Done) && folded.counts.parked == 1, "{folded:?}");
    let own = "select next_offset from consumer_partitions where projection = 'trend' and epoch = 7";
    assert_eq!(number(&bench.client, own).await, 5, "the position of the other projection stays where it is");
    let look = bench.store.look(std::slice::from_ref(&bench.place)).await.expect("a look");
    assert_eq!(look.iter().map(|look| look.standing.next_offset).collect::<Vec<_>>(), [1]);

    let parked = "insert into consumer_parked (consumer_group, event_id, projection, topic, partition, \"offset\", error, release_asked_at) \
                  select consumer_group, event_id, $1, topic, partition, \"offset\", 'x', now() from consumer_parked where projection is null";
    bench.client.execute(parked, &[&"trend"]).await.expect("the same event for another projection");
    bench.client.execute(parked, &[&"trend"]).await.expect_err("twice for one projection");
    let look = bench.store.look(std::slice::from_ref(&bench.place)).await.expect("a look");
    assert!(!look[0].released, "what another projection releases is not for this one");
    assert!(product_metrics(&bench.client).await.is_empty());
}

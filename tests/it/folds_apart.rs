//! What a fold that waits keeps from whom: nobody but its own partition.

use std::time::Duration;

use outbox_relay::projection::Projection;
use uuid::Uuid;

use crate::projection::kafka::Bench;
use crate::projection::number;
use crate::projection::projection;
use crate::support::wait_until;

const PATIENCE: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 8;

/// Copies where every event was, and waits for an advisory lock of the test in the first partition.
const COPIES: &str = "insert into copies select partition, \"offset\" from new_events \
                      where partition > 0 or pg_advisory_xact_lock(1) is not null";

/// Promise: read-model-locks.
#[tokio::test(flavor = "multi_thread")]
async fn seven_of_eight_partitions_fold_while_one_waits_for_a_lock() {
    let bench = Bench::new("seven", PARTITIONS).await;
    bench.client.batch_execute("create table copies (partition int, at bigint)").await.expect("a table");
    let running = bench.start_with(vec![Projection::product_metrics(), projection("copies", &["Other"], COPIES)]);
    let running = running.ready().await;
    let untouched = "select sum(epoch)::bigint from consumer_partitions where partition > 0";
    let before = number(&bench.client, untouched).await;
    let holder = bench.test.connect().await;
    holder.batch_execute("select pg_advisory_lock(1)").await.expect("the lock");

    let copied = async |what: &str, sql: &str, count: i64| {
        wait_until(what, PATIENCE, async || {
            let now = number(&bench.client, sql).await;
            if now == count { Ok(()) } else { Err(format!("{now}")) }
        })
        .await;
    };
    let other = |_| (Uuid::new_v4(), "Other", "{}".to_owned());
    // Several rounds: polling goes on all the while, and the group keeps its member.
    for round in 1..=5 {
        bench.produce((0..80).map(other).collect(), PARTITIONS).await;
        let others = "select count(*) from copies where partition > 0";
        copied("the other seven are folded", others, round * 70).await;
        assert_eq!(number(&bench.client, "select count(*) from copies where partition = 0").await, 0);
    }
    let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted and database = \
                 (select oid from pg_database where datname = current_database())";
    assert!(number(&bench.client, waits).await <= 1, "one fold at a time of a partition");
    holder.batch_execute("select pg_advisory_unlock(1)").await.expect("the lock");
    copied("the eighth has caught up", "select count(*) from copies where partition = 0", 50).await;
    let twice = "select count(*) - count(distinct (partition, at)) from copies";
    assert_eq!(number(&bench.client, twice).await, 0);
    let taken = number(&bench.client, untouched).await;
    assert_eq!(taken, before, "the other seven were not taken away meanwhile");
    running.ready().await.stop().await.expect("a clean stop");
}

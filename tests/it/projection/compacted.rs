//! A topic that is compacted under the consumer: offsets have gaps, and the last record that was folded is gone.

use std::time::Duration;

use super::kafka::Bench;
use super::*;
use crate::support::{Topic, wait_until};

/// Promise: positions.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_to_look_back_at_that_was_compacted_away_stops_nothing() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("min.compaction.lag.ms", "0"),
        ("max.compaction.lag.ms", "100"),
    ];
    let topic = Topic::planned("compacted").created_with(1, &settings).await;
    let bench = Bench::between(topic, TestDatabase::migrated("compacted").await, "compacted").await;
    let running = bench.start();
    bench.produce_likes(20, 1).await;
    bench.wait_for_offset(20).await;
    let before = number(&bench.client, "select sum(like_count)::bigint from product_metrics").await;
    running.stop().await.expect("a clean stop");
    // All of them have one key, so that the last one makes the others superfluous. New records end the open segment.
    wait_until("the last folded record is compacted away", Duration::from_secs(120), async || {
        bench.produce_likes(1, 1).await;
        let first = bench.topic.records().await.first().map(|record| record.offset);
        if first.is_some_and(|offset| offset >= 20) { Ok(()) } else { Err(format!("the log begins at {first:?}")) }
    })
    .await;
    bench.produce_likes(5, 1).await;
    let end = bench.topic.records().await.last().expect("records").offset + 1;
    let running = bench.start();
    bench.wait_for_offset(end).await;
    let running = running.ready().await;
    let likes = number(&bench.client, "select sum(like_count)::bigint from product_metrics").await;
    assert!(likes > before && likes <= end, "{before}, then {likes} of {end}");
    assert_eq!(likes, number(&bench.client, "select count(*) from event_handled").await);
    running.stop().await.expect("a clean stop");
}

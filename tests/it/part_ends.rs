//! The end of a process one part of which cannot be helped, and what its other parts do until then.

use std::time::Duration;

use crate::foreign_bytes::Bench;
use crate::support::NewRow;
use crate::support::outbox::wait_until_published;

const PATIENCE: Duration = Duration::from_secs(120);

/// Each hang is found after a quarter of a minute here: longer than the scheduler stops a process.
const FOUR_HANGS: Duration = Duration::from_secs(200);

/// Promise: parts.
#[tokio::test]
async fn a_consumer_that_hangs_a_fourth_time_ends_the_process_with_1() {
    let bench = Bench::open("fourth").await;
    let mut relay =
        bench.settings().env("FAILPOINTS", "consumer.turn=return(100000000);part.silence=return(15)").start();
    NewRow::new(&bench.other.name, "k", "{}").insert(&bench.client).await;
    wait_until_published(&bench.database, PATIENCE).await;
    assert_eq!(relay.wait_for_exit(FOUR_HANGS).await, Some(1), "{}", relay.log_text());
    let log = relay.log_text();
    assert_eq!(log.matches("hangs; abandoning and replacing it").count(), 3, "{log}");
    assert!(log.contains("hung 4 times"), "{log}");
    // In order: nothing of the relay was left for a successor to take over.
    let left = "select count(*) from outbox_shards where lease_until > clock_timestamp()";
    let left: i64 = bench.client.query_one(left, &[]).await.expect("shards").get(0);
    assert_eq!(left, 0, "its leases are given back: {log}");
}

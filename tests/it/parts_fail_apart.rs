//! A panic in one part of the process: it is started again, what it had in hand is taken up as after a crash, and the
//! others go on.

use std::time::Duration;

use crate::consumer::{Shop, expect_the_fold};
use crate::foreign_bytes::{Bench, Foreign, produce};
use crate::support::kafka::sent_ids;
use crate::support::outbox::{committed_ids, insert_many, wait_until_published};
use crate::support::relay::RelaySettings;
use crate::support::{NewRow, TestDatabase, Topic, http, order, parts::parts, unique};

const PATIENCE: Duration = Duration::from_secs(120);
const RESTARTED: &str = "panicked; restarting it";

async fn relay_panics(delivery: &str) {
    let (database, topic) = tokio::join!(TestDatabase::migrated("panic"), Topic::create("panic", 3));
    let client = database.connect().await;
    insert_many(&client, &topic.name, 24, 600).await;
    let settings = RelaySettings::new(&database, &parts().kafka)
        .set("relay.delivery", delivery)
        .set("relay.batch_rows", "20")
        .set("run.deployment", &unique("panic"))
        .set("relay.lease", "3s");
    let points = "step.before_commit=9*off->1*return(panic)->off;commit.after=30*off->1*return(panic)->off;\
                  produce.mid=40*off->1*return(panic)->off";
    let mut relay = settings.env("FAILPOINTS", points).start();
    wait_until_published(&database, PATIENCE).await;
    assert!(relay.is_running(), "{}", relay.log_text());
    relay.wait_for_log("failed; restarting it").await;
    let report = order::check(&committed_ids(&client).await, &sent_ids(&topic.records().await));
    assert!(report.violations.is_empty(), "{report:?}");
    if delivery == "exactly-once" {
        assert_eq!(report.repeats, 0, "{report:?}");
    }
    relay.wait_for_readiness(200, "").await;
    relay.terminate().await;
}

/// Promise: parts.
#[tokio::test]
async fn a_lane_that_panics_is_taken_over_like_a_crashed_one() {
    relay_panics("at-least-once").await;
}

/// Promise: parts.
#[tokio::test]
async fn a_lane_that_panics_repeats_nothing_in_exactly_once_delivery() {
    relay_panics("exactly-once").await;
}

/// Promise: parts.
#[tokio::test]
async fn a_consumer_that_panics_is_started_again_and_counts_nothing_twice() {
    let shop = Shop::open("panic-fold").await;
    let client = shop.database.connect().await;
    shop.publish(&client, 3_000).await;
    let settings = shop.settings("consumer,admin").set("consumer.batch_records", "100");
    let points = "fold.before_commit=3*off->1*return(panic)->off;fold.after_commit=5*off->1*return(panic)->off";
    let mut consumer = settings.env("FAILPOINTS", points).start();
    shop.wait_until_folded(&client).await;
    expect_the_fold(&client).await;
    consumer.wait_for_log("a fold panicked").await;
    let log = consumer.log_text();
    assert!(consumer.is_running() && !log.contains(RESTARTED), "{log}");
    consumer.terminate().await;
}

/// Promise: parts.
#[tokio::test]
async fn a_consumer_that_hangs_is_replaced_while_the_relay_goes_on() {
    let bench = Bench::open("hang").await;
    produce(&bench.topic, vec![Foreign::like(0), Foreign::like(1)]).await;
    let hangs = "consumer.turn=10*off->1*return(100000000)->off;part.silence=return(15)";
    let mut relay = bench.settings().env("FAILPOINTS", hangs).start();
    relay.wait_for_log("abandoning and replacing it").await;
    NewRow::new(&bench.other.name, "k", "{}").insert(&bench.client).await;
    wait_until_published(&bench.database, PATIENCE).await;
    produce(&bench.topic, vec![Foreign::like(0), Foreign::like(1)]).await;
    bench.wait_until_read(4).await;
    assert_eq!(bench.likes().await, 4);
    relay.wait_for_readiness(200, "").await;
    let (status, _) = http::get(relay.admin(), "/livez").await.expect("it answers");
    assert_eq!(status, 200);
    relay.terminate().await;
}

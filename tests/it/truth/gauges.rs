//! Gauges of what an instance no longer has: they vanish, and do not stay at their last value.

use super::stage::{PATIENCE, Ready, Says, Stage, one_log_line};
use crate::support::{PrivatePostgres, Relay, StopMode, TestDatabase, Topic, http, outbox_relay, wait_until};

/// The samples of this metric.
async fn samples(process: &Relay, name: &str) -> Result<Vec<String>, String> {
    let (_, text) = http::get(process.admin(), "/metrics").await?;
    let samples = text.lines().filter(|line| line.starts_with(name) && line[name.len()..].starts_with(['{', ' ']));
    Ok(samples.map(str::to_owned).collect())
}

async fn wait_for_samples(process: &Relay, name: &str, expected: impl Fn(&[String]) -> bool) {
    wait_until(&format!("{name} is as expected"), PATIENCE, async || {
        let now = samples(process, name).await?;
        if expected(&now) { Ok(()) } else { Err(format!("{now:?}")) }
    })
    .await;
}

const LAG: &str = "outbox_relay_consumer_lag_records";

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_another_member_got() {
    let (database, topic) = tokio::join!(TestDatabase::migrated("truth-lost"), Topic::create("truth-lost", 2));
    let stage = Stage::between(database, topic, "truth-lost");
    let first = stage.settings("consumer,admin").start_ready().await;
    wait_for_samples(&first, LAG, |lags| lags.len() == 2).await;
    let mut second = stage.settings("consumer,admin").start_ready().await;
    wait_for_samples(&second, LAG, |lags| lags.len() == 1).await;
    wait_for_samples(&first, LAG, |lags| lags.len() == 1).await;
    let both = [samples(&first, LAG).await, samples(&second, LAG).await].map(|lags| lags.expect("metrics").concat());
    assert_ne!(both[0], both[1], "each has a partition of its own");
    second.terminate().await;
    wait_for_samples(&first, LAG, |lags| lags.len() == 2).await;
}

/// A process without a relay has nothing to say of what only a relay asks for.
#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_run() {
    let stage = Stage::new("truth-parts").await;
    let consumer = stage.settings("consumer,admin").start_ready().await;
    let relay = stage.settings("relay,admin").start_ready().await;
    let of_relays = ["outbox_relay_component_up", "outbox_relay_paused", "outbox_relay_partitions_unavailable"];
    for name in of_relays {
        wait_for_samples(&relay, name, |samples| !samples.is_empty()).await;
        assert_eq!(samples(&consumer, name).await, Ok(Vec::new()), "{name}");
    }
    let stopped = "outbox_relay_consumer_partitions_stopped";
    wait_for_samples(&consumer, stopped, |samples| !samples.is_empty()).await;
    assert_eq!(samples(&relay, stopped).await, Ok(Vec::new()));
    // The outbox is not partitioned, so nobody knows how many ids are left before the last partition.
    assert_eq!(samples(&relay, "outbox_relay_partition_ids_ahead").await, Ok(Vec::new()));
}

/// While PostgreSQL is away nobody knows what events wait for. Afterwards it is the same wait as before.
#[tokio::test(flavor = "multi_thread")]
async fn what_events_wait_for_while_postgresql_is_away() {
    let postgres = PrivatePostgres::start().await;
    let (database, topic) = tokio::join!(TestDatabase::migrated_at(&postgres.url), Topic::create("truth-away", 1));
    let stage = Stage::between(database, topic, "truth-away");
    let process = stage.settings("relay,admin").start_ready().await;
    outbox_relay(&["pause", "--topic", &stage.topic.name]).env("DATABASE_URL", &stage.database.url).run().await;
    let paused = r#"{part="relay",situation="paused"} 1"#;
    let waits = "outbox_relay_waits";
    wait_for_samples(&process, waits, |samples| samples.iter().any(|sample| sample.ends_with(paused))).await;
    postgres.stop(StopMode::Crash).await;
    for name in [waits, "outbox_relay_waits_since_timestamp_seconds", "outbox_relay_pending_events"] {
        wait_for_samples(&process, name, <[String]>::is_empty).await;
    }
    postgres.start_again().await;
    wait_for_samples(&process, waits, |samples| samples.iter().any(|sample| sample.ends_with(paused))).await;
    wait_for_samples(&process, "outbox_relay_pending_events", |samples| !samples.is_empty()).await;
    let says = Says { part: "relay", situation: "paused", ready: Ready::Yes, lag: 0, words: "", since: true };
    one_log_line(&process, "is waiting:", &says).await;
}

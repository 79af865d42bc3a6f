//! What readiness and the gauges say while nothing can be folded.

use std::time::Duration;

use outbox_relay::config::DatabaseConfig;
use outbox_relay::db::Database;
use outbox_relay::secret::Secret;

use super::kafka::Bench;
use crate::support::{PrivatePostgres, TestDatabase, Topic, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);

/// A consumer of committed records cannot read them yet; they are lag all the same.
#[tokio::test(flavor = "multi_thread")]
async fn records_behind_an_open_transaction_are_lag() {
    let bench = Bench::new("open", 1).await;
    bench.produce_likes(2, 1).await;
    let running = bench.start().ready().await;
    bench.wait_for_likes(2).await;
    let open = bench.topic.open_transaction(5).await;
    wait_until("the gauge shows what is behind the transaction", PATIENCE, async || {
        let lags = running.lags();
        if lags == ["5"] { Ok(()) } else { Err(format!("{lags:?}")) }
    })
    .await;
    drop(open);
    running.stop().await.expect("a clean stop");
}

/// No record comes, so no fold fails; all the same nobody knows whether the positions are still right.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_consumer_is_not_ready_while_postgresql_does_not_answer() {
    let postgres = PrivatePostgres::start().await;
    let test = TestDatabase::migrated_at(&postgres.url).await;
    let mut bench = Bench::between(Topic::create("idle", 1).await, test, "idle").await;
    let settings = DatabaseConfig {
        url: Secret::new(&bench.test.url),
        statement_timeout: Duration::from_secs(5),
        ..DatabaseConfig::default()
    };
    bench.database = Database::new(&settings).expect("a valid URL");
    bench.produce_likes(3, 1).await;
    let running = bench.start().ready().await;
    bench.wait_for_likes(3).await;
    let frozen = postgres.freeze();
    running.wait_for_reason("could not compare positions").await;
    drop(frozen);
    let running = running.ready().await;
    running.stop().await.expect("a clean stop");
}

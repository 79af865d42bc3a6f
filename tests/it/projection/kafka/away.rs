//! PostgreSQL or Kafka goes away and comes back.

use super::*;
use crate::support::{PrivateKafka, PrivatePostgres, StopMode};

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_postgresql_and_skips_nothing() {
    let bench = Bench::new("outage", 2).await;
    let admin = TestDatabase { url: parts().database_url.clone() }.connect().await;
    let name = bench.test.name();
    let running = bench.start().ready().await;
    bench.produce_likes(100, 2).await;
    bench.wait_for_offset(100).await;
    admin.batch_execute(&format!("alter database {name} allow_connections false")).await.unwrap();
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                where datname = $1 and application_name like 'outbox-relay%'";
    admin.query(kill, &[&name]).await.unwrap();
    bench.produce_likes(100, 2).await;
    running.wait_for_reason("PostgreSQL is not reachable").await;
    bench.produce_likes(5_000, 2).await;
    admin.batch_execute(&format!("alter database {name} allow_connections true")).await.unwrap();
    bench.wait_for_offset(5_200).await;
    running.ready().await.stop().await.expect("a clean stop");
    assert_eq!(product_metrics(&bench.client).await, ["1 5200 0 0 0"]);
    assert_eq!(number(&bench.client, "select count(*) from event_handled").await, 5_200);
}

/// The consumer does not wait for the disk when it commits. What a crash of PostgreSQL takes back, it folds again.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_a_crash_of_postgresql_takes_back_are_folded_again() {
    let postgres = PrivatePostgres::start().await;
    let test = TestDatabase::migrated_at(&postgres.url).await;
    let mut bench = Bench::between(Topic::create("crash", 2).await, test, "crash").await;
    bench.settings.batch_records = std::num::NonZeroU32::new(20).unwrap();
    // As long as PostgreSQL allows, so that there is something to lose.
    let settings = "alter system set wal_writer_delay = '10s'; select pg_reload_conf()";
    for statement in settings.split("; ") {
        bench.client.batch_execute(statement).await.unwrap();
    }
    bench.produce_likes(20_000, 2).await;
    let running = bench.start();
    for n in 1..=3 {
        bench.wait_for_offset_from(n * 4_000).await;
        postgres.restart(StopMode::Crash).await;
        bench.client = bench.test.reconnect().await;
    }
    bench.wait_for_offset(20_000).await;
    assert_eq!(product_metrics(&bench.client).await, ["1 20000 0 0 0"]);
    assert_eq!(number(&bench.client, "select count(*) from event_handled").await, 20_000);
    running.ready().await.stop().await.expect("a clean stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_kafka_and_stops_in_time_while_kafka_is_away() {
    let kafka = PrivateKafka::start().await;
    let topic = Topic::create_on(&kafka.bootstrap, "away", 2).await;
    let bench = Bench::between(topic, TestDatabase::migrated("away").await, "away").await;
    bench.produce_likes(100, 2).await;
    let running = bench.start().ready().await;
    bench.wait_for_offset(100).await;
    kafka.stop(StopMode::Crash).await;
    running.wait_for_reason("no Kafka broker is connected").await;
    kafka.start_again().await;
    let running = running.ready().await;
    bench.produce_likes(100, 2).await;
    bench.wait_for_offset(200).await;
    kafka.stop(StopMode::Crash).await;
    running.stop().await.expect("a clean stop without a broker");
    // And one that never saw a broker.
    let running = bench.start();
    running.wait_for_reason("no Kafka broker is connected").await;
    running.stop().await.expect("a clean stop without a broker");
    assert_eq!(product_metrics(&bench.client).await, ["1 200 0 0 0"]);
}

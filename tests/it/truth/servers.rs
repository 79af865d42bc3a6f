//! PostgreSQL or Kafka away, or silent.

use super::stage::{PATIENCE, Ready, Says, Stage};
use crate::support::{PrivateKafka, PrivatePostgres, Relay, StopMode, TestDatabase, Topic, http, wait_until};

const AWAY: Says<'_> = Says { part: "consumer", situation: "", ready: Ready::No, lag: 4, words: "", since: false };

/// Waits until readiness names it, the gauge counts it, and the figures that nobody can measure are gone.
async fn expect_unknown(process: &Relay, situation: &str, gauge: &str) {
    wait_until(&format!("{situation} is named, and {gauge} is absent"), PATIENCE, async || {
        let (status, body) = http::get(process.admin(), "/readyz?verbose").await?;
        let (_, text) = http::get(process.admin(), "/metrics").await?;
        let named = status == 503 && body.contains(&format!("({situation} since 20"));
        let counted = text.contains(&format!("outbox_relay_waits{{part=\"consumer\",situation=\"{situation}\"}} 1"));
        let absent = !text.lines().any(|line| line.starts_with(gauge));
        if named && counted && absent { Ok(()) } else { Err(format!("{status} {body}\n{text}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_away_or_silent() {
    let postgres = PrivatePostgres::start().await;
    let (database, topic) = tokio::join!(TestDatabase::migrated_at(&postgres.url), Topic::create("truth-postgres", 1));
    let stage = Stage::between(database, topic, "truth-postgres");
    let process = stage.settings("relay,consumer,admin").set("database.statement_timeout", "5s").start_ready().await;
    let away = Says { situation: "postgres-away", ..AWAY };
    let frozen = postgres.freeze();
    expect_unknown(&process, away.situation, "outbox_relay_pending_events ").await;
    drop(frozen);
    process.wait_for_readiness(200, "").await;
    postgres.stop(StopMode::Crash).await;
    expect_unknown(&process, away.situation, "outbox_relay_pending_events ").await;
    stage.command(&["lag", "-o", "json"]).run().await.expect_code(4);
    stage.command(&["top", "--once", "-o", "json"]).run().await.expect_code(4);
    postgres.start_again().await;
    wait_until("it is ready again", PATIENCE, async || match http::get(process.admin(), "/readyz?verbose").await? {
        (200, body) if !body.contains("postgres-away") => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_away() {
    let (database, kafka) = tokio::join!(TestDatabase::migrated("truth-kafka"), PrivateKafka::start());
    let topic = Topic::create_on(&kafka.bootstrap, "truth-kafka", 1).await;
    let stage = Stage::between(database, topic, "truth-kafka");
    let process = stage.settings("consumer,admin").start_ready().await;
    let away = Says { situation: "kafka-away", ..AWAY };
    kafka.stop(StopMode::Crash).await;
    stage.expect(&process, &away).await;
    expect_unknown(&process, away.situation, "outbox_relay_consumer_lag_records{").await;
    kafka.start_again().await;
    stage.expect_over(&process, &away).await;
}

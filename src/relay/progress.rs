//! The topic whose committed offsets are the markers of exactly-once delivery.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::RelayHealth;
use crate::broker::admin::Admin;
use crate::db::DbError;
use crate::error::{Code, Error, Result};
use crate::health::Heartbeat;
use crate::outbox::PgOutbox;

/// Wait between two attempts while PostgreSQL or Kafka is away.
const RETRY: Duration = Duration::from_secs(1);

/// Sees to it that the topic is there, one partition for each shard, and returns the name of this outbox, which markers carry.
/// Waits for PostgreSQL and Kafka. `None` when the stop came first.
///
/// Errors: [`Code::KafkaConfig`] when the topic has too few partitions.
pub(super) async fn prepare(
    topic: &str,
    admin: &Admin,
    outbox: &PgOutbox,
    health: &RelayHealth,
    heartbeat: &Heartbeat,
    stop: &CancellationToken,
) -> Result<Option<Uuid>> {
    while !stop.is_cancelled() {
        heartbeat.beat();
        match attempt(topic, admin, outbox).await {
            Ok(installation) => return Ok(Some(installation)),
            Err(Obstacle::Postgres(error)) => {
                health.postgres_failed(&error);
                tracing::warn!(error = %error.chain(), "waiting for PostgreSQL");
            }
            Err(Obstacle::Kafka(error)) if error.code() == Code::KafkaUnreachable => {
                health.kafka_failed(&error.chain());
                tracing::warn!(error = %error.chain(), "waiting for the topic of the markers");
            }
            Err(Obstacle::Kafka(error)) => return Err(error),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    Ok(None)
}

enum Obstacle {
    Postgres(DbError),
    Kafka(Error),
}

async fn attempt(topic: &str, admin: &Admin, outbox: &PgOutbox) -> std::result::Result<Uuid, Obstacle> {
    let installation = outbox.installation().await.map_err(Obstacle::Postgres)?;
    let partitions = match admin.topic(topic).await.map_err(Obstacle::Kafka)? {
        Some(facts) => facts.partitions,
        None => {
            admin.create_topic(topic, installation.shards).await.map_err(Obstacle::Kafka)?;
            tracing::info!(topic, partitions = installation.shards, "the topic of the markers is created");
            installation.shards
        }
    };
    if partitions < installation.shards {
        let message =
            format!("the topic {topic} has {partitions} partitions, and the outbox has {} shards", installation.shards);
        let hint = format!("add partitions to {topic}: exactly-once delivery keeps the marker of each shard in one");
        return Err(Obstacle::Kafka(Error::new(Code::KafkaConfig, message).hint(hint)));
    }
    Ok(installation.id)
}

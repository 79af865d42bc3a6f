//! The topic whose committed offsets are the markers of exactly-once delivery.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::health::RelayHealth;
use crate::broker::admin::Admin;
use crate::db::DbError;
use crate::error::{Code, Error, Result};
use crate::health::Heartbeat;
use crate::outbox::PgOutbox;

/// Wait between two attempts while PostgreSQL or Kafka is away.
const RETRY: Duration = Duration::from_secs(1);

/// Its name, which is also that of the group whose offsets they are.
pub fn name_of(deployment: &str) -> String {
    format!("{deployment}.progress")
}

/// Sees to it that the topic is there, one partition for each shard, and returns the name of this outbox, which markers
/// carry. Waits for PostgreSQL and Kafka. `None` when the stop came first.
///
/// Errors: [`Code::KafkaConfig`] when the topic has too few partitions and they cannot be added.
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
                tracing::warn!(error = %error.chain(), "waiting for the marker topic");
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
    ensure_topic(topic, admin, installation.shards).await.map_err(Obstacle::Kafka)?;
    Ok(installation.id)
}

/// Sees to it that the topic of the markers has a partition for each shard. It holds no records, so partitions can be
/// added at any time.
///
/// Errors: [`Code::KafkaUnreachable`] when waiting can help, [`Code::KafkaConfig`] when it has too few and they cannot
/// be added.
pub async fn ensure_topic(topic: &str, admin: &Admin, shards: usize) -> Result<()> {
    match admin.topic(topic).await? {
        Some(facts) if facts.partitions >= shards => {}
        Some(facts) => {
            admin.grow_topic(topic, shards).await?;
            tracing::info!(topic, from = facts.partitions, to = shards, "added partitions to the marker topic");
        }
        None => {
            admin.create_topic(topic, shards).await?;
            tracing::info!(topic, partitions = shards, "created the marker topic");
        }
    }
    Ok(())
}

//! What is paused, as the lanes know it: read every second, so a pause takes effect within about that time. Also
//! releases keys that wait for a topic that is resumed.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::shared::{Lanes, Paused};
use crate::db::Pool;
use crate::metrics::TopicLabel;
use crate::outbox::pauses::{self, EVERYTHING, Pause};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks between two looks for keys that wait for a topic which can be written to: they may have been held by a process
/// that is gone.
const LOOKS_FOR_WAITING: u32 = 5;

/// Keeps [`Lanes`] informed until `stop`, and releases what waits for topics that go on. While PostgreSQL is away
/// nothing changes.
pub(super) async fn run(lanes: Arc<Lanes>, pool: Pool, stop: CancellationToken) {
    for looks in 1_u32.. {
        if stop.is_cancelled() {
            break;
        }
        look(&lanes, &pool).await;
        if looks % LOOKS_FOR_WAITING == 0 {
            release_usable(&lanes, &pool).await;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// The first look comes before the first claim.
pub(super) async fn look(lanes: &Lanes, pool: &Pool) {
    let Ok(pauses) = pauses::list(pool).await else { return };
    lanes.health.pauses.set(pauses.iter().map(note).collect());
    if let Some(paused) = lanes.paused.set(Paused::new(pauses)) {
        let topics: Vec<&str> = paused.topics.iter().map(String::as_str).collect();
        tracing::warn!(everything = paused.everything, topics = ?topics, "the set of paused topics changed");
        lanes.metrics.paused.clear();
        let set =
            |topic: &str, value| lanes.metrics.paused.get_or_create(&TopicLabel { topic: topic.to_owned() }).set(value);
        set(EVERYTHING, i64::from(paused.everything));
        for topic in topics {
            set(topic, 1);
        }
    }
    if let Err(error) = pauses::release_resumed(pool).await {
        tracing::debug!(error = %error.chain(), "could not release resumed keys");
    }
    let granted = lanes.catalog.granted();
    if !granted.is_empty()
        && let Err(error) = pauses::release_granted(pool, &granted).await
    {
        tracing::debug!(error = %error.chain(), "could not release keys that waited for a grant");
    }
}

/// Keys wait for a topic because of what an owner of their shard knew. Another owner knows nothing of it, and would
/// leave them until their time.
async fn release_usable(lanes: &Lanes, pool: &Pool) {
    let shards = lanes.owned_shards();
    let released = async {
        let topics = lanes.catalog.usable(pauses::topics_waited_for(pool, &shards).await?);
        if topics.is_empty() { Ok(0) } else { pauses::release_usable(pool, &topics, &shards).await }
    };
    match released.await {
        Ok(0) => {}
        Ok(keys) => tracing::info!(keys, "released keys that waited for a topic; it is writable again"),
        Err(error) => tracing::debug!(error = %error.chain(), "could not look for keys that wait for topics"),
    }
}

/// For `/readyz?verbose`, which anybody may read: not who and why, which are texts of operators.
fn note(pause: &Pause) -> String {
    let since = pause.paused_at.to_seconds();
    match pause.topic.as_str() {
        EVERYTHING => format!("everything has been paused since {since}"),
        topic => format!("topic {topic} has been paused since {since}"),
    }
}

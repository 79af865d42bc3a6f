//! What an operator has paused: everything, or single topics; and the release of keys that waited for a topic.

use super::audit::{self, Author};
use crate::db::{DbError, Pool, StoredTime};
use crate::event::ShardId;

const LIST: &str = include_str!("pauses/sql/list_pauses.sql");
const ADD: &str = include_str!("pauses/sql/add_pause.sql");
const REMOVE: &str = include_str!("pauses/sql/remove_pause.sql");
const RELEASE_GRANTED: &str = include_str!("pauses/sql/release_granted.sql");
const RELEASE_USABLE: &str = include_str!("pauses/sql/release_usable.sql");
const TOPICS_WAITED_FOR: &str = include_str!("pauses/sql/topics_waited_for.sql");
const RELEASE: &str = include_str!("pauses/sql/release_resumed.sql");

/// The name that means everything; no topic can have it.
pub const EVERYTHING: &str = "*";

/// A topic, or [`EVERYTHING`], that is not published until it is resumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    pub topic: String,
    pub paused_at: StoredTime,
    pub actor: String,
    pub reason: Option<String>,
}

pub async fn list(pool: &Pool) -> Result<Vec<Pause>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(&connection.prepare_cached(LIST).await?, &[]).await?;
    connection.done();
    Ok(rows
        .iter()
        .map(|row| Pause {
            topic: row.get("topic"),
            paused_at: row.get("paused_at"),
            actor: row.get("actor"),
            reason: row.get("reason"),
        })
        .collect())
}

/// Pauses. False when it was paused already; then nothing was changed.
pub async fn pause(pool: &Pool, topic: &str, author: &Author) -> Result<bool, DbError> {
    change(pool, ADD, "pause", topic, author).await
}

/// Resumes. False when it was not paused; then nothing was changed. What waits for the topic is released by the relays,
/// which look every second.
pub async fn resume(pool: &Pool, topic: &str, author: &Author) -> Result<bool, DbError> {
    change(pool, REMOVE, "resume", topic, author).await
}

async fn change(pool: &Pool, statement: &str, action: &str, topic: &str, author: &Author) -> Result<bool, DbError> {
    let mut connection = pool.get().await?;
    let tx = connection.transaction().await?;
    let changed = match action {
        "pause" => tx.execute(statement, &[&topic, &author.actor, &author.reason]).await?,
        _ => tx.execute(statement, &[&topic]).await?,
    };
    if changed > 0 {
        audit::record(&tx, author, action, &serde_json::json!({ "topic": topic })).await?;
    }
    tx.commit().await?;
    connection.done();
    Ok(changed > 0)
}

/// Lets the keys go that wait for a grant on these topics. Returns how many.
pub async fn release_granted(pool: &Pool, topics: &[String]) -> Result<u64, DbError> {
    let connection = pool.get().await?;
    let released = connection.execute(&connection.prepare_cached(RELEASE_GRANTED).await?, &[&topics]).await?;
    connection.done();
    Ok(released)
}

/// The topics that keys of these shards wait for, no matter which process held them.
pub async fn topics_waited_for(pool: &Pool, shards: &[ShardId]) -> Result<Vec<String>, DbError> {
    let connection = pool.get().await?;
    let rows = connection.query(&connection.prepare_cached(TOPICS_WAITED_FOR).await?, &[&shards]).await?;
    connection.done();
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Lets the keys of these shards go that wait for topics which can be written to. Returns how many.
pub async fn release_usable(pool: &Pool, topics: &[String], shards: &[ShardId]) -> Result<u64, DbError> {
    let connection = pool.get().await?;
    let released = connection.execute(&connection.prepare_cached(RELEASE_USABLE).await?, &[&topics, &shards]).await?;
    connection.done();
    Ok(released)
}

/// Lets the keys go that wait for a topic which is not paused any more. Returns how many.
pub async fn release_resumed(pool: &Pool) -> Result<u64, DbError> {
    let connection = pool.get().await?;
    let released = connection.execute(&connection.prepare_cached(RELEASE).await?, &[]).await?;
    connection.done();
    Ok(released)
}

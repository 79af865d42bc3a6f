//! Partitions of an outbox created with `migrate up --partitioned`: one instance creates them ahead of time and drops
//! them.
//!
//! A partition is dropped when every row in it is finished and old, and no new row can appear in it: an id may be drawn
//! early and committed late, and only the lock barrier proves that none of its ids is still to be committed. A crash
//! may follow any step: the next look completes what is half done.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{rest, worker};
use crate::clock::monotonic;
use crate::config::CleanupConfig;
use crate::db::{DbError, Pool};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::outbox::barrier::Barrier;
use crate::outbox::partitions::{Partition, Session};
use crate::retry::Backoff;

/// Time between two checks of how far ids have advanced.
const LOOK: Duration = Duration::from_secs(1);
/// Between two looks at whether the table is partitioned, and whether the instance that looks after it has gone.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Number of empty partitions ahead of the one in use, in addition to the last one, which has no upper bound.
const AHEAD: i64 = 2;
/// How long a figure counts that nobody renews: longer than dropping a partition may take.
const BELIEVED: Duration = Duration::from_secs(120);
/// Rows that one statement looks at.
const ROWS: u32 = 20_000;

/// Looks after partitions until `stop`. `pool` is of [`Role::Cleanup`](crate::db::Role::Cleanup) and of two
/// connections.
pub async fn run(
    settings: CleanupConfig,
    rows: NonZeroU32,
    pool: Pool,
    metrics: Metrics,
    stop: CancellationToken,
) -> Result<()> {
    let mut backoff = Backoff::for_connection();
    let mut keeper = Keeper { settings, rows: i64::from(rows.get()), metrics, not_before: HashMap::new() };
    while !stop.is_cancelled() {
        let wait = match keeper.lead(&pool, &stop).await {
            Ok(()) => {
                backoff.reset();
                LOOK_AGAIN
            }
            Err(error) => {
                complain(&error);
                backoff.next_wait().max(LOOK)
            }
        };
        // From here on another instance may be the one that knows.
        keeper.metrics.partition_ids_ahead.unknown();
        rest(wait, &stop).await;
    }
    Ok(())
}

fn complain(error: &DbError) {
    // Locks held by other sessions, and long transactions, are waited for.
    if error.is_unavailable() {
        tracing::debug!(error = %error.chain(), "partition maintenance postponed");
    } else {
        tracing::warn!(error = %error.chain(), "partition maintenance failed; the role must own outbox_events");
    }
}

struct Keeper {
    settings: CleanupConfig,
    /// Ids of a partition.
    rows: i64,
    metrics: Metrics,
    /// When partitions that were still needed are looked at again.
    not_before: HashMap<String, Duration>,
}

impl Keeper {
    /// Works for as long as this session is the one that does. Returns at once when another one is, or the table is a
    /// plain one.
    async fn lead(&mut self, pool: &Pool, stop: &CancellationToken) -> Result<(), DbError> {
        let mut session = Session::open(pool).await?;
        if session.list().await?.is_empty() || !session.lead().await? {
            session.close();
            return Ok(());
        }
        let mut barrier = Barrier::new(pool.clone());
        while !stop.is_cancelled() {
            if let Err(error) = self.extend(&mut session).await {
                if !is_patience_over(&error) {
                    return Err(error);
                }
                complain(&error);
            }
            let horizon = barrier.probe().await?.id;
            if let (true, Some(age)) = (self.settings.enabled, self.settings.published_older_than.age())
                && let Err(error) = self.drop_finished(&mut session, horizon, age, stop).await
            {
                if !is_patience_over(&error) {
                    return Err(error);
                }
                complain(&error);
            }
            rest(LOOK, stop).await;
        }
        Ok(())
    }

    /// Makes partitions until enough ids are free before the last one.
    async fn extend(&self, session: &mut Session) -> Result<(), DbError> {
        loop {
            let last_id = session.last_id().await?;
            let partitions = session.list().await?;
            let Some(last) = partitions.last().filter(|partition| partition.upper.is_none()) else { return Ok(()) };
            let lower = last.lower.unwrap_or(1);
            self.metrics.partition_ids_ahead.set_for(BELIEVED, lower.saturating_sub(1).saturating_sub(last_id));
            let Some(upper) = new_upper(last_id, lower, self.rows) else { return Ok(()) };
            session.extend(last, upper).await?;
            tracing::debug!(from = lower, to = upper, "created a partition");
        }
    }

    async fn drop_finished(
        &mut self,
        session: &mut Session,
        horizon: i64,
        age: Duration,
        stop: &CancellationToken,
    ) -> Result<(), DbError> {
        let partitions = session.list().await?;
        for partition in partitions.iter().filter(|partition| partition.pending) {
            session.finish_taking_off(partition).await?;
        }
        for doomed in session.doomed().await? {
            if session.drop_or_put_back(&doomed).await? {
                tracing::info!(table = doomed.name, "dropped a partition of finished events");
            } else {
                tracing::warn!(
                    table = doomed.name,
                    "a partition was detached to be dropped, but a row in it is no longer finished; attached it again"
                );
                self.put_off(&doomed.name);
            }
        }
        let now = monotonic();
        for partition in partitions.iter().filter(|partition| is_over(partition, horizon)) {
            if stop.is_cancelled() || self.not_before.get(&partition.name).is_some_and(|at| now < *at) {
                continue;
            }
            if let Some(rows) = self.finished_rows(session, partition, age, stop).await? {
                session.take_off(partition).await?;
                self.metrics.count_deleted(rows, 0, 0, 0);
                // The next look finds it, as it would after a crash.
                break;
            }
            self.put_off(&partition.name);
        }
        Ok(())
    }

    fn put_off(&mut self, name: &str) {
        self.not_before.insert(name.to_owned(), monotonic() + self.settings.interval);
    }

    /// The number of its rows if all are finished and old. In small steps with pauses, as deleting is.
    async fn finished_rows(
        &self,
        session: &Session,
        partition: &Partition,
        age: Duration,
        stop: &CancellationToken,
    ) -> Result<Option<u64>, DbError> {
        let (lowest, highest) =
            (partition.lower.unwrap_or(1), partition.upper.map_or(i64::MAX, |upper| upper.saturating_sub(1)));
        if session.is_needed((lowest, highest), age).await? {
            return Ok(None);
        }
        let (mut after, mut rows) = (lowest.saturating_sub(1), 0);
        loop {
            let started = monotonic();
            let (last_id, seen, needed) = session.look(after, highest, ROWS, age).await?;
            rows += u64::try_from(seen).unwrap_or(0);
            match last_id {
                _ if needed > 0 || stop.is_cancelled() => return Ok(None),
                None => return Ok(Some(rows)),
                Some(id) => after = id,
            }
            rest(monotonic().saturating_sub(started), stop).await;
        }
    }
}

/// A lock or the end of transactions was waited for in vain: nothing is broken, and the next look tries again.
fn is_patience_over(error: &DbError) -> bool {
    worker::is_timeout(error) || error.is_lock_timeout()
}

/// No row with an id of the partition can appear any more.
fn is_over(partition: &Partition, horizon: i64) -> bool {
    !partition.pending && partition.upper.is_some_and(|upper| upper.saturating_sub(1) <= horizon)
}

/// Where the last partition, which begins at `lower`, has to end now; `None` while enough ids are free before it. Pure.
fn new_upper(last_id: i64, lower: i64, rows: i64) -> Option<i64> {
    let free = lower.saturating_sub(1).saturating_sub(last_id);
    // Ids that are in the last partition already stay in it.
    (free < rows.saturating_mul(AHEAD)).then(|| lower.max(last_id.saturating_add(1)).saturating_add(rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_made_until_two_are_free_and_hold_what_is_in_the_last() {
        let (mut lower, mut made) = (1_001, 0);
        while let Some(upper) = new_upper(1, lower, 1_000) {
            assert_eq!(upper, lower + 1_000);
            (lower, made) = (upper, made + 1);
        }
        assert_eq!((lower, made), (3_001, 2));
        assert_eq!(new_upper(1_000, lower, 1_000), None, "two are free");
        assert_eq!(new_upper(1_001, lower, 1_000), Some(4_001));
        assert_eq!(new_upper(9_000, lower, 1_000), Some(10_001), "while nobody looked, ids went into the last one");
    }

    #[test]
    fn a_partition_is_over_when_the_horizon_has_passed_its_last_id() {
        let partition =
            |upper, pending| Partition { name: String::new(), schema: String::new(), lower: None, upper, pending };
        assert!(is_over(&partition(Some(1_001), false), 1_000));
        assert!(!is_over(&partition(Some(1_001), false), 999));
        assert!(!is_over(&partition(None, false), i64::MAX));
        assert!(!is_over(&partition(Some(1_001), true), 5_000), "it is on its way out");
    }
}

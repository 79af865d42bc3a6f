//! Converts a plain outbox into a partitioned one while it is in use: the old table becomes the first partition, and no
//! row is moved.
//!
//! A check on the ids that cannot fail is added and validated while writers continue (`conversion/sql/bound.sql`
//! explains why). Then one transaction exchanges the tables under an exclusive lock that it holds for some
//! milliseconds. Each attempt to get a lock gives up early and pauses, with growing pauses, so whoever waits behind us
//! waits for that long at most, whatever transactions are open. If the process is killed, the tables are either as
//! before or exchanged. The check that may be left rejects nothing, and the next call continues with it.

use std::num::NonZeroU32;
use std::time::Duration;

use tokio_postgres::error::SqlState;

use crate::clock::monotonic;
use crate::db::{Client, DbError};
use crate::error::{Code, Error, Result};
use crate::retry::Backoff;

const FACTS: &str = include_str!("conversion/sql/facts.sql");
const OBSTACLES: &str = include_str!("conversion/sql/obstacles.sql");
const SETTINGS: &str = include_str!("conversion/sql/settings.sql");
const BOUND: &str = include_str!("conversion/sql/bound.sql");
const VALIDATE: &str = include_str!("conversion/sql/validate.sql");
const EXCHANGE: &str = include_str!("conversion/sql/exchange.sql");
const FORGET: &str = include_str!("conversion/sql/forget.sql");
const HOLDERS: &str = include_str!("conversion/sql/holders.sql");

/// Pauses between two attempts. A lock that is waited for makes others wait as well, for 200 ms at most: a twenty-fifth
/// of the time when a transaction stays open.
pub(super) const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// Between two lines about waiting.
pub(super) const TELL_EVERY: Duration = Duration::from_secs(10);

/// Hears a line now and then about what is done.
pub type Tell<'t> = &'t mut (dyn FnMut(&str) + Send);

/// The outbox before a conversion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub partitioned: bool,
    /// An estimate of PostgreSQL's; `None` when it has none.
    pub rows: Option<u64>,
    /// The highest id drawn.
    pub last_id: i64,
    /// The check is there, and whether it is validated: an earlier call was interrupted.
    pub begun: Option<bool>,
}

impl Facts {
    /// The end of the first partition, if no id were drawn until then.
    pub fn first_upper(&self, rows: NonZeroU32) -> i64 {
        self.last_id.max(i64::from(rows.get())).saturating_add(1)
    }
}

/// What there is. Errors: those of the database.
pub(super) async fn look(client: &Client) -> Result<Facts> {
    let row = client.query_one(FACTS, &[]).await?;
    Ok(Facts {
        partitioned: row.get("partitioned"),
        rows: u64::try_from(row.get::<_, i64>("rows")).ok(),
        last_id: row.get("last_id"),
        begun: row.get("bound"),
    })
}

/// Errors: [`Code::MigrationFailed`] when something could not be carried over, with all of it.
pub(super) async fn refuse(client: &Client) -> Result<()> {
    let found = client.query(OBSTACLES, &[]).await?;
    if found.is_empty() {
        return Ok(());
    }
    let list = |column: &str| found.iter().map(|row| row.get::<_, &str>(column)).collect::<Vec<_>>().join("; ");
    Err(Error::new(Code::MigrationFailed, format!("outbox_events cannot be made partitioned: {}", list("what")))
        .hint(format!("{}; nothing was changed", list("fix"))))
}

/// Converts, with `rows` ids to a partition. `client` is alone with the migration lock and without timeouts. Not cancel
/// safe: dropped in the middle, the next call goes on.
///
/// Errors: [`Code::MigrationFailed`] when something could not be carried over, or a statement fails; everything is as
/// before then.
pub(super) async fn run(client: &mut Client, facts: &Facts, rows: NonZeroU32, tell: Tell<'_>) -> Result<()> {
    refuse(client).await?;
    let outcome = work(client, facts, rows, tell).await;
    if outcome.is_err() {
        // With little patience, and where the connection is gone not at all: what stays behind does no harm.
        drop(attempt(client, FORGET).await);
    }
    outcome
}

async fn work(client: &mut Client, facts: &Facts, rows: NonZeroU32, tell: Tell<'_>) -> Result<()> {
    match facts.begun {
        None => patiently(client, BOUND, tell).await?,
        Some(_) => tell("continuing an interrupted conversion"),
    }
    if facts.begun != Some(true) {
        let about = facts.rows.map_or_else(String::new, |rows| format!("about {rows} "));
        tell(&format!("reading {about}rows once, while the table stays in use"));
    }
    client.batch_execute(VALIDATE).await?;
    tell("exchanging the tables");
    patiently(client, &EXCHANGE.replace("{rows}", &rows.to_string()), tell).await
}

/// Tries until the locks are there. Others never wait for longer than 200 ms for this.
async fn patiently(client: &mut Client, script: &str, tell: Tell<'_>) -> Result<()> {
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    let mut told: Option<Duration> = None;
    loop {
        match attempt(client, script).await {
            Ok(()) => return Ok(()),
            Err(error) if is_in_the_way(&error) => {}
            Err(error) => return Err(failed(error)),
        }
        let now = monotonic();
        if told.is_none_or(|at| now.saturating_sub(at) >= TELL_EVERY) {
            told = Some(now);
            tell(&holders(client).await?);
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// One transaction.
async fn attempt(client: &mut Client, script: &str) -> std::result::Result<(), DbError> {
    let tx = client.transaction().await?;
    tx.batch_execute(SETTINGS).await?;
    tx.batch_execute(script).await?;
    tx.commit().await
}

/// Somebody has the lock, or waits for us while we wait for him.
pub(super) fn is_in_the_way(error: &DbError) -> bool {
    error.is_lock_timeout() || error.sqlstate() == Some(&SqlState::T_R_DEADLOCK_DETECTED)
}

pub(super) async fn holders(client: &Client) -> Result<String> {
    let row = client.query_one(HOLDERS, &[]).await?;
    let (transactions, pid, age): (i64, Option<i32>, Option<f64>) = (row.get(0), row.get(1), row.get(2));
    let oldest = match (pid, age) {
        (Some(pid), Some(age)) => format!("; the oldest visible one is pid {pid}, {age:.0} s old"),
        _ => String::new(),
    };
    Ok(format!("waiting until no transaction on outbox_events is open: {transactions} now{oldest}"))
}

fn failed(error: DbError) -> Error {
    if error.is_unavailable() && error.sqlstate() != Some(&SqlState::QUERY_CANCELED) {
        return error.into();
    }
    Error::new(Code::MigrationFailed, "outbox_events could not be made partitioned")
        .caused_by(error)
        .hint("nothing was changed; fix the cause and run it again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_partition_ends_behind_the_last_id_and_is_not_smaller_than_others() {
        let rows = NonZeroU32::new(1_000).unwrap();
        let upper = |last_id| Facts { partitioned: false, rows: None, last_id, begun: None }.first_upper(rows);
        assert_eq!([upper(0), upper(1_000), upper(1_001)], [1_001, 1_001, 1_002]);
    }
}

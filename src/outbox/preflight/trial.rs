//! Trial runs of what the relay and the consumer write: each statement in a transaction that is rolled back. A check, a
//! trigger or a type in the application that rejects one of them is thus found before the day a dead letter must be
//! written.
//!
//! Only `check` does this: it draws an id, and fires the application's triggers.

use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use super::{Gravity, Obstacle};
use crate::db::{Client, Database, DbError, Role, Transaction};

const EVENT: &str = include_str!("sql/trial_event.sql");
const RAW_EVENT: &str = include_str!("sql/trial_raw_event.sql");
const DEAD_LETTER: &str = include_str!("sql/trial_dead_letter.sql");
const REPLAY: &str = include_str!("sql/trial_replay.sql");
const STATUS: &str = include_str!("sql/trial_status.sql");
const HOLD: &str = include_str!("sql/trial_hold.sql");
const CONSUMER: [(&str, &str); 3] = [
    ("take a partition", include_str!("sql/trial_partition.sql")),
    ("note an event as handled", include_str!("sql/trial_handled.sql")),
    ("park an event", include_str!("sql/trial_parked.sql")),
];

/// The topic of events on trial. They are never committed.
const TOPIC: &str = "outbox-relay-check";

/// Tries what the relay writes.
pub async fn relay(database: &Database) -> Result<Vec<Obstacle>, DbError> {
    let mut client = database.connect(Role::Admin).await?;
    let mut trial = Trial::begin(&mut client).await?;
    let Some(id) = trial.insert("insert an event", EVENT, &[&TOPIC]).await? else { return trial.end().await };
    trial.run("insert an event with a payload of bytes", Gravity::Degraded, RAW_EVENT, &[&TOPIC]).await?;
    trial.run("write a dead letter", Gravity::Degraded, DEAD_LETTER, &[&id, &"outbox-relay-check-dlq"]).await?;
    trial.run("write a copy for a replay", Gravity::Degraded, REPLAY, &[&id]).await?;
    trial.run("hold a key", Gravity::Refuse, HOLD, &[&id]).await?;
    for status in ["HELD", "PENDING", "FAILED", "PENDING", "PUBLISHED"] {
        trial.run(&format!("change an event to {status}"), Gravity::Refuse, STATUS, &[&id, &status]).await?;
    }
    trial.end().await
}

/// Tries what the consumer writes, besides its projections.
pub async fn consumer(database: &Database) -> Result<Vec<Obstacle>, DbError> {
    let mut client = database.connect(Role::Admin).await?;
    let mut trial = Trial::begin(&mut client).await?;
    for (what, statement) in CONSUMER {
        trial.run(what, Gravity::Refuse, statement, &[]).await?;
    }
    trial.end().await
}

struct Trial<'a> {
    transaction: Transaction<'a>,
    obstacles: Vec<Obstacle>,
}

impl<'a> Trial<'a> {
    async fn begin(client: &'a mut Client) -> Result<Self, DbError> {
        Ok(Self { transaction: client.transaction().await?, obstacles: Vec::new() })
    }

    /// The first column of the row that a statement returns; `None` when it fails.
    async fn insert(
        &mut self,
        what: &str,
        statement: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Option<i64>, DbError> {
        let point = self.transaction.savepoint("trial").await?;
        match point.query_opt(statement, params).await {
            Ok(row) => {
                point.commit().await?;
                let Some(row) = row else {
                    self.obstacles.push(left_out(what, Gravity::Degraded));
                    return Ok(None);
                };
                Ok(Some(row.try_get(0)?))
            }
            Err(error) => {
                point.rollback().await?;
                self.obstacles.extend(judge(what, Gravity::Degraded, error)?);
                Ok(None)
            }
        }
    }

    /// A statement that changes one row. What it did stays for those that follow.
    async fn run(
        &mut self,
        what: &str,
        gravity: Gravity,
        statement: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<(), DbError> {
        let point = self.transaction.savepoint("trial").await?;
        match point.execute(statement, params).await {
            Ok(changed) => {
                point.commit().await?;
                if changed == 0 {
                    self.obstacles.push(left_out(what, gravity));
                }
            }
            Err(error) => {
                point.rollback().await?;
                self.obstacles.extend(judge(what, gravity, error)?);
            }
        }
        Ok(())
    }

    async fn end(self) -> Result<Vec<Obstacle>, DbError> {
        self.transaction.rollback().await?;
        Ok(self.obstacles)
    }
}

const CHECK: &str = "schema.trial";

/// A trigger of the application has returned null.
fn left_out(what: &str, gravity: Gravity) -> Obstacle {
    Obstacle {
        gravity,
        check: CHECK,
        what: format!("PostgreSQL did not {what}: the statement succeeded but changed no row"),
        why: "a BEFORE trigger returns null, and the relay would believe that the change was made".to_owned(),
        fix: "change the trigger to return new".to_owned(),
    }
}

/// What a rejection means. `None`: nothing to report. An outage is passed on.
fn judge(what: &str, gravity: Gravity, error: DbError) -> Result<Option<Obstacle>, DbError> {
    let Some(code) = error.sqlstate().cloned() else { return Err(error) };
    // Grants are looked at by name, and whether the server takes writes before that.
    if matches!(code, SqlState::INSUFFICIENT_PRIVILEGE | SqlState::READ_ONLY_SQL_TRANSACTION) {
        return Ok(None);
    }
    Ok(Some(Obstacle {
        gravity,
        check: CHECK,
        what: format!("PostgreSQL refuses to {what}: {}", error.chain()),
        why: "the statement that was tried and rolled back is one that the relay and its commands run regularly"
            .to_owned(),
        fix: "change the constraint, trigger or type of that name so that it takes such rows: \
              they have only the columns that outbox-relay knows"
            .to_owned(),
    }))
}

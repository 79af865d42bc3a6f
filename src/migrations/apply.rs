//! Applies pending migrations in one transaction: either all of them, or none.
//!
//! An upgrade runs while applications work. Each lock is requested with a short timeout, and if it is not available the
//! whole transaction is rolled back and retried after a pause: a long application transaction makes us wait, but never
//! their other inserts behind us.

use std::time::Duration;

use super::conversion::{PAUSE, TELL_EVERY, holders, is_in_the_way};
use crate::clock::monotonic;
use crate::db::{Client, DbError};
use crate::error::{Code, Error, Result};
use crate::retry::Backoff;

const SETTINGS: &str = include_str!("apply/sql/apply_settings.sql");

/// A part of the transaction, with a name for messages.
pub(super) struct Step {
    pub what: String,
    pub sql: String,
}

/// Runs `steps` as one transaction, again and again until no lock is in the way. `client` is alone with the migration
/// lock and without a statement timeout. Cancel safe: what is not committed is rolled back.
///
/// Errors: [`Code::MigrationFailed`] when a statement fails; nothing has changed then.
pub(super) async fn run(client: &mut Client, steps: &[Step]) -> Result<()> {
    let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
    let mut told: Option<Duration> = None;
    loop {
        match attempt(client, steps).await {
            Ok(()) => return Ok(()),
            Err((_, error)) if is_in_the_way(&error) => {}
            Err((what, error)) => return Err(failed(what, error)),
        }
        let now = monotonic();
        if told.is_none_or(|at| now.saturating_sub(at) >= TELL_EVERY) {
            told = Some(now);
            tracing::warn!("the migration is {}", holders(client).await?);
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

/// With the step that failed.
async fn attempt<'s>(client: &mut Client, steps: &'s [Step]) -> Result<(), (&'s str, DbError)> {
    let tx = client.transaction().await.map_err(|error| ("the first statement", error))?;
    tx.batch_execute(SETTINGS).await.map_err(|error| ("the first statement", error))?;
    for step in steps {
        tx.batch_execute(&step.sql).await.map_err(|error| (step.what.as_str(), error))?;
    }
    tx.commit().await.map_err(|error| ("the end of the transaction", error))
}

fn failed(what: &str, error: DbError) -> Error {
    // A server that goes away in the middle is waited for like one that was never there.
    if error.is_unavailable() {
        return error.into();
    }
    Error::new(Code::MigrationFailed, format!("{what} failed"))
        .caused_by(error)
        .hint("nothing was changed; fix the cause and run: outbox-relay migrate up")
}

//! Use cases: what an operator can ask of the outbox, Kafka and the consumer, one module each.
//!
//! Input is typed and does not come from the command line alone. A use case that only looks is one function that
//! returns a report. One that changes something has a plan, which says what would be done, and a run, which does it,
//! tells a [`Progress`] how far it is, and ends early when its token is cancelled. Reports serialise; their JSON is
//! public. What a report means as an exit status is its `verdict`.
//!
//! Invariant: nothing here asks a question, prints, or reads flags.

pub mod adopt;
pub mod check;
pub mod cleanup;
pub mod consumer;
pub mod dlq;
pub mod events;
pub mod health;
mod input;
pub mod jobs;
pub mod lag;
pub mod migrate;
pub mod pause;
pub mod preflight;
pub mod progress;
pub mod recover;
pub mod replay;
pub mod shards;
pub mod top;

use crate::config::Config;
use crate::db::{Database, DbError, Pool, Role};
use crate::error::{Code, Error};
use crate::outbox::inspect;

pub use crate::broker::librdkafka_version;
pub use crate::outbox::audit::Author;
pub use input::{EventRef, Place, When};
pub use progress::Progress;

/// Why a use case failed: a code, what happened, and mostly what to do.
#[derive(Debug)]
pub struct Failure(Error);

pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<DbError> for Failure {
    fn from(error: DbError) -> Self {
        if inspect::is_timeout(&error) {
            let slow = Error::new(Code::PostgresStatement, "the statement took longer than database.statement_timeout");
            return Self(slow.hint(
                "ask for less: ids and the states pending, failed and held are indexed; or wait longer, with --set database.statement_timeout=10m",
            ));
        }
        Self(error.into())
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.0
    }
}

/// The few connections of one use case.
pub fn pool(settings: &Config) -> Result<Pool> {
    Ok(Database::of(settings)?.pool(Role::Admin, 2))
}

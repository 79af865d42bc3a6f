//! Statements that may take as long as they need: migrations, the conversion to partitions, resharding, reads of whole
//! tables.
//!
//! Instead of a limit they are watched: another connection checks now and then whether the server is still working on
//! the statement.

use std::fmt;
use std::time::Duration;

use super::{Database, Role};

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// Answers that must be missing, or bad, in a row.
const STRIKES: u32 = 3;

const IS_ACTIVE: &str = include_str!("sql/is_active.sql");
pub(super) const BACKEND_PID: &str = include_str!("sql/backend_pid.sql");

/// How long the statements of a connection may take.
#[derive(Debug)]
pub(super) enum Patience {
    /// As long as the settings say.
    Limited,
    /// As long as the server works on them.
    WhileItWorks(Box<Watch>),
}

/// Asks about one session through another one.
pub(super) struct Watch {
    database: Database,
    /// The server process of the session that is watched.
    pid: i32,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("pid", &self.pid).finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new(database: Database, pid: i32) -> Self {
        Self { database, pid }
    }

    /// Returns when the server has not answered, or was not working for the session, several times in a row.
    pub(super) async fn until_silent(&self) {
        let mut strikes = 0;
        while strikes < STRIKES {
            tokio::time::sleep(ASK_EVERY).await;
            // Boxed, because a connection that is being made is large, and is inside of one that makes a call.
            let active = Box::pin(self.is_active()).await;
            strikes = if active { 0 } else { strikes + 1 };
        }
    }

    async fn is_active(&self) -> bool {
        let asked = async {
            let client = self.database.connect(Role::Admin).await?;
            let row = client.query_one(IS_ACTIVE, &[&self.pid]).await?;
            Ok::<bool, super::DbError>(row.get(0))
        };
        asked.await.unwrap_or_else(|error| {
            tracing::debug!(error = %error.chain(), "could not find out whether a long statement is still running");
            // A server that has no connection to spare answers, and that is what is asked.
            error.sqlstate().is_some()
        })
    }
}

//! Which schema contains our tables, the same for every session of the process.
//!
//! Invariant: a process works in one schema until it ends. If no setting names it, the first connection finds it along
//! its own `search_path`, and all later ones use the result: if someone changes the role's path meanwhile, half of the
//! connections must not end up with other tables.

use std::sync::{Arc, OnceLock};

use super::{Client, DbError};
use crate::failpoint::{Fault, fault};

const CHOOSE: &str = include_str!("sql/choose_schema.sql");

/// The schema of one outbox. Cheap to clone; clones share what was found.
#[derive(Debug, Clone, Default)]
pub(super) struct Schema {
    wanted: Option<Arc<str>>,
    found: Arc<OnceLock<String>>,
}

impl Schema {
    /// The schema that a setting names; `None`: the one that the first connection finds.
    pub(super) fn new(wanted: Option<&str>) -> Self {
        Self { wanted: wanted.map(Arc::from), found: Arc::default() }
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.wanted.as_deref().or_else(|| self.found.get().map(String::as_str))
    }

    /// Makes a new session use the schema. One statement, once in the life of a connection.
    pub(super) async fn choose(&self, client: &Client) -> Result<(), DbError> {
        let Some(row) = client.query_opt(CHOOSE, &[&self.name()]).await? else { return Ok(()) };
        let chosen: String = row.try_get("schema")?;
        if self.name().is_none() && *self.found.get_or_init(|| chosen.clone()) != chosen {
            // Two first connections at once, and the path of the role was changed between them.
            client.query_opt(CHOOSE, &[&self.name()]).await?;
        }
        if fault(Fault::SearchPathNotSet) {
            client.batch_execute("reset search_path").await?;
        }
        Ok(())
    }
}

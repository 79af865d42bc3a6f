//! `outbox_audit`: who did what by hand, and why. Written in the same transaction as the change, so that neither exists
//! without the other.

use serde_json::Value;

use crate::db::{DbError, Transaction};

const AUDIT: &str = include_str!("audit/sql/audit.sql");

/// Who asks for a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// `user@host` for a command, the name of a token for the admin API, `reprocess` for the schedule.
    pub actor: String,
    pub reason: Option<String>,
}

/// Records a change. `details` is an object without payloads, keys or secrets.
pub async fn record(tx: &Transaction<'_>, author: &Author, action: &str, details: &Value) -> Result<(), DbError> {
    tx.execute(AUDIT, &[&author.actor, &action, details, &author.reason]).await?;
    Ok(())
}

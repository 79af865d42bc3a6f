//! What an operator decides about the consumer: positions of partitions, and parked events. Commands call it, and so
//! can anything else that acts for an operator; nothing here prints or asks.
//!
//! Invariant: a decision and its line in `outbox_audit` are committed together. The running consumer finds out by
//! itself.

pub(crate) mod parked;
pub(crate) mod positions;
pub(crate) mod sessions;

use serde_json::Value;

use crate::db::{DbError, Transaction};

const AUDIT: &str = include_str!("decisions/sql/audit_decision.sql");

/// Who decides, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    pub actor: String,
    pub reason: Option<String>,
}

/// `details` is an object without payloads, keys or secrets.
async fn audit(tx: &Transaction<'_>, author: &Author, action: &str, details: &Value) -> Result<(), DbError> {
    tx.execute(AUDIT, &[&author.actor, &action, details, &author.reason]).await?;
    Ok(())
}

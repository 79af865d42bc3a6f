//! The read model of products compared with a recomputation from the outbox.

use crate::db::{Database, DbError, Role};

const PRODUCT_METRICS_DIFFERENCES: &str = include_str!("sql/product_metrics_differences.sql");

/// A product whose metrics are not what the outbox says. Each side as text, `None` where it has no row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub product_id: i64,
    pub folded: Option<String>,
    pub expected: Option<String>,
}

/// Compares `product_metrics` with a recomputation from all published rows of `outbox_events`, less what `group` has
/// parked. Empty when they agree. Reads the whole outbox: for demos and tests, once the consumer has caught up.
pub async fn differences(database: &Database, group: &str) -> Result<Vec<Difference>, DbError> {
    let mut client = database.connect(Role::Admin).await?;
    client.without_statement_limit().await?;
    let rows = client.query(PRODUCT_METRICS_DIFFERENCES, &[&group]).await?;
    let differences =
        rows.iter().map(|row| Difference { product_id: row.get(0), folded: row.get(1), expected: row.get(2) });
    Ok(differences.collect())
}

//! The statements, one file each, as constants. `tests/it/sql_files.rs` prepares every file.

/// Fragments of statements (`db/fragments.rs`).
pub(super) const FILTER: (&str, &str) = ("filter", include_str!("sql/filter.sql"));
pub(super) const NEXT_ROWS: (&str, &str) = ("next_rows", include_str!("sql/next_rows.sql"));

pub(super) const INSTALLATION: &str = include_str!("sql/installation.sql");
pub(super) const REQUEUE: &str = include_str!("sql/requeue.sql");
pub(super) const NEXT_PRODUCER: &str = include_str!("sql/next_producer.sql");
pub(super) const REHOME: &str = include_str!("sql/rehome.sql");
pub(super) const SETTLE_PUBLISHED: &str = include_str!("sql/settle_published.sql");
pub(super) const SHARDS_DUE: &str = include_str!("sql/shards_due.sql");
pub(super) const SHARD_STATE: &str = include_str!("sql/shard_state.sql");

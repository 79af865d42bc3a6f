//! The statements, one file each, as constants. `tests/it/sql_files.rs` prepares every file.

pub(super) const ACQUIRE_LEASES: &str = include_str!("sql/acquire_leases.sql");
pub(super) const ATTEMPTS: &str = include_str!("sql/attempts.sql");
pub(super) const BACKLOG: &str = include_str!("sql/backlog.sql");
pub(super) const CLAIM: &str = include_str!("sql/claim.sql");
pub(super) const CLAIM_MANIFEST: &str = include_str!("sql/claim_manifest.sql");
pub(super) const FENCE: &str = include_str!("sql/fence.sql");
pub(super) const HEARTBEAT: &str = include_str!("sql/heartbeat.sql");
pub(super) const HELD_AMONG: &str = include_str!("sql/held_among.sql");
pub(super) const HOLD_KEYS: &str = include_str!("sql/hold_keys.sql");
pub(super) const INSTALLATION: &str = include_str!("sql/installation.sql");
pub(super) const LAST_ID: &str = include_str!("sql/last_id.sql");
pub(super) const LEAVE: &str = include_str!("sql/leave.sql");
pub(super) const LOCK_SESSION: &str = include_str!("sql/lock_session.sql");
pub(super) const LOWEST_PENDING: &str = include_str!("sql/lowest_pending.sql");
pub(super) const OPEN_WRITERS: &str = include_str!("sql/open_writers.sql");
pub(super) const RELEASE_DUE: &str = include_str!("sql/release_due.sql");
pub(super) const RELEASE_LEASE: &str = include_str!("sql/release_lease.sql");
pub(super) const RENEW_LEASES: &str = include_str!("sql/renew_leases.sql");
pub(super) const SETTLE_DELETED: &str = include_str!("sql/settle_deleted.sql");
pub(super) const SETTLE_FAILED: &str = include_str!("sql/settle_failed.sql");
pub(super) const SETTLE_HELD: &str = include_str!("sql/settle_held.sql");
pub(super) const SETTLE_PUBLISHED: &str = include_str!("sql/settle_published.sql");
pub(super) const SHARD_STATE: &str = include_str!("sql/shard_state.sql");
pub(super) const SHARDS_DUE: &str = include_str!("sql/shards_due.sql");
pub(super) const SWEEP: &str = include_str!("sql/sweep.sql");
pub(super) const WRITE_MANIFEST: &str = include_str!("sql/write_manifest.sql");

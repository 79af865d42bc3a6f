//! Replays: copies of published events, appended behind all waiting events, in portions.
//!
//! Old rows are never reopened: a copy has its own id, so it takes its turn behind the live rows of its key.
//! Invariants: a portion is one transaction that locks the row of the replay, makes copies and advances `last_id`, so a
//! crash repeats nothing; the table is walked by its primary key in windows of bounded size, so no statement grows with
//! the table, whatever the filter.

mod filter;
mod pace;
mod portion;
mod record;
mod walk;

pub use filter::Filter;
pub use pace::Pace;
pub use portion::{By, Portion, portion, progress};
pub use record::{Begun, Replay, TakeOver, Taken, create, show, take};
pub use walk::{Bounds, Group, Named, begin, count, missing_grants, named};

/// Run on every connection of the pools that are given to this module.
pub const SESSION: &str = include_str!("replay/sql/session.sql");

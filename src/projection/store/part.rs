//! Part of a batch: what is to happen to its records, how it is folded, and what became of it.

use super::locks::LockWait;
use crate::projection::position::Standing;
use crate::projection::record::{Place, Record};

/// What is to happen to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Into every projection that handles it.
    Fold,
    /// No projection handles it.
    Skip,
    /// It cannot be folded, for this reason.
    Park(String),
    /// The same, and PostgreSQL refuses to keep it as it is: what is no ASCII is written in another way, from which
    /// every byte is known.
    ParkEscaped(String),
}

/// Part of a batch of one partition, offsets ascending. `fates` is as long as `records`.
#[derive(Debug, Clone, Copy)]
pub struct Part<'a> {
    pub place: &'a Place,
    pub epoch: i64,
    /// Where the partition stands, as far as its reader knows.
    pub next_offset: i64,
    pub records: &'a [Record],
    pub fates: &'a [Fate],
}

/// How a part is folded.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
    /// It has failed with `Cause::Data`: finds out which events fail, and parks them. The same cause again is about
    /// something that concerns no projection alone.
    pub apart: bool,
    /// It has failed with `Cause::TooSlow`, and holds more records than one: less time.
    pub brief: bool,
    pub wait: &'a LockWait,
}

/// What became of the records of a part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub applied: u64,
    pub duplicate: u64,
    pub skipped: u64,
    pub parked: u64,
}

/// How a fold ended, if the database did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Committed.
    Folded(Counts),
    /// Nothing changed: a projection refuses these records (index in the part, reason).
    Refused(Vec<(usize, String)>),
    /// Nothing changed: the partition is not where its reader believes. `None`: its row is gone.
    Elsewhere(Option<Standing>),
}

//! How carefully a step treats its rows: normally without any extra work; after a step of the shard has failed, with
//! each statement bisected down to the row at fault (`isolate.rs`).
//!
//! Invariant: a normal step needs no extra statement for this. A careful step must have the same effect on the shard:
//! each row is written, or its outcome is stored in `outbox_outcomes` (`outcomes.rs`), before the manifest is replaced.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::claim::{self, Found};
use super::doubt::Doubts;
use super::isolate::{Blame, Cut, MayBlame, cut_where};
use super::{Claim, OutboxError, Source, outcomes, rows};
use crate::clock::monotonic;
use crate::db::{DbError, Transaction};
use crate::event::ShardId;
use crate::failpoint::{Fault, fault};

const CAREFUL_IDS: &str = include_str!("care/sql/ids.sql");
const CAREFUL_IDS_AGAIN: &str = include_str!("care/sql/ids_again.sql");
const CAREFUL_KEYS: &str = include_str!("care/sql/keys.sql");
const CAREFUL_LIMITS: &str = include_str!("care/sql/limits.sql");

/// Number of careful steps of a shard after a failed one. A guess: bad rows come in groups, and a step that has to fail
/// first takes as long as `statement_timeout`.
const STEPS: u8 = 8;
/// Times that a row may not be read in time, alone, before that is held against it.
const STRIKES: u8 = 3;
/// Maximum number of rows that are read at once.
const READ_TOGETHER: usize = 64;

impl MayBlame for OutboxError {
    fn blame(&self) -> Blame {
        match self {
            Self::Db(error) => error.blame(),
            Self::Unchanged => Blame::Row,
            Self::Fenced(_) | Self::Moved { .. } => Blame::Nobody,
        }
    }

    fn sqlstate(&self) -> Option<SqlState> {
        match self {
            Self::Db(error) => MayBlame::sqlstate(error),
            // What PostgreSQL calls the same between its own statements.
            Self::Unchanged => Some(SqlState::TRIGGERED_DATA_CHANGE_VIOLATION),
            Self::Fenced(_) | Self::Moved { .. } => None,
        }
    }
}

/// How a statement over several rows is run.
#[derive(Debug, Clone, Copy)]
pub(super) enum Care {
    /// At once.
    Plain,
    /// So that a row which makes it fail is found; until this time on the monotonic clock.
    Until(Duration),
    /// The same, and an error by which the server blames itself may be a row's as well.
    Doubting(Duration),
}

impl Care {
    /// Whether a row that makes a statement fail is looked for.
    pub(super) fn looks(self) -> bool {
        match self {
            Self::Plain => false,
            Self::Until(_) | Self::Doubting(_) => true,
        }
    }

    fn until(self) -> Option<Duration> {
        match self {
            Self::Plain => None,
            Self::Until(until) | Self::Doubting(until) => Some(until),
        }
    }

    /// `work` as `isolate::cut` has it. Without care nothing is refused.
    pub(super) async fn over<T: Clone, R, F>(
        self,
        tx: &Transaction<'_>,
        items: &[T],
        mut work: impl FnMut(Vec<T>) -> F,
    ) -> Result<Cut<T, R>, OutboxError>
    where
        F: Future<Output = Result<R, OutboxError>>,
    {
        match self {
            Self::Plain => Ok(Cut { done: vec![work(items.to_vec()).await?], refused: Vec::new(), left: Vec::new() }),
            Self::Until(until) => cut_where(tx, items, until, |blame| blame == Blame::Row, work).await,
            Self::Doubting(until) => cut_where(tx, items, until, |blame| blame != Blame::Nobody, work).await,
        }
    }
}

/// The times of a careful step, so that it ends long before its lease does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Budget {
    started: Duration,
    lease: Duration,
    /// Errors by which the server blames itself may be a row's.
    in_doubt: bool,
}

impl Budget {
    pub(super) fn new(lease: Duration, in_doubt: bool) -> Self {
        Self { started: monotonic(), lease, in_doubt }
    }

    /// For what is written before the claim, for the claim, and for what is written after it. No trigger runs when a
    /// row is read, so a failed read is never held against a row in doubt.
    pub(super) fn phases(self) -> [Care; 3] {
        let [before, reading, after] = [2, 3, 4].map(|sixths| self.started + self.lease * sixths / 6);
        match self.in_doubt {
            false => [before, reading, after].map(Care::Until),
            true => [Care::Doubting(before), Care::Until(reading), Care::Doubting(after)],
        }
    }

    /// Limits for each statement from here on.
    pub(super) async fn limit(self, tx: &Transaction<'_>) -> Result<(), DbError> {
        let limit = |part: u32, least| i32::try_from((self.lease / part).as_millis()).unwrap_or(i32::MAX).max(least);
        tx.query(&tx.prepare_cached(CAREFUL_LIMITS).await?, &[&limit(6, 1_000), &limit(12, 500)]).await?;
        tx.batch_execute(outcomes::IMMEDIATE).await?;
        Ok(())
    }
}

fn ran_out_of_time(sqlstate: Option<&SqlState>) -> bool {
    matches!(sqlstate, Some(&SqlState::QUERY_CANCELED | &SqlState::LOCK_NOT_AVAILABLE))
}

/// Shards that take care, and rows that could not be read in time.
#[derive(Debug, Default)]
pub(super) struct Watch {
    shards: Mutex<HashMap<ShardId, Suspicion>>,
    pub(super) doubts: Doubts,
}

#[derive(Debug, Default)]
struct Suspicion {
    steps: u8,
    /// Reading ran out of time. The next step begins with a single row: to halve a full part again would take all of
    /// its time, and it would get no further than the last one.
    slow: bool,
    strikes: HashMap<i64, u8>,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, HashMap<ShardId, Suspicion>> {
        // Counters alone: a panic elsewhere leaves nothing half done.
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_on(&self, shard: ShardId) -> bool {
        self.lock().contains_key(&shard)
    }

    /// A step of the shard has failed, perhaps by a row.
    pub(super) fn begin(&self, shard: ShardId, sqlstate: Option<&SqlState>) {
        let mut shards = self.lock();
        let suspicion = shards.entry(shard).or_default();
        suspicion.steps = STEPS;
        suspicion.slow = ran_out_of_time(sqlstate) && !fault(Fault::SlowRowForgotten);
    }

    fn is_slow(&self, shard: ShardId) -> bool {
        self.lock().get(&shard).is_some_and(|suspicion| suspicion.slow)
    }

    fn set_slow(&self, shard: ShardId, slow: bool) {
        if let Some(suspicion) = self.lock().get_mut(&shard) {
            suspicion.slow = slow && !fault(Fault::SlowRowForgotten);
        }
    }

    /// A careful step has ended well; `busy`: it met a row at fault, or there is one that is still suspected.
    pub(super) fn step(&self, shard: ShardId, busy: bool) {
        let mut shards = self.lock();
        let Some(suspicion) = shards.get_mut(&shard) else { return };
        suspicion.steps = if busy || suspicion.slow { STEPS } else { suspicion.steps.saturating_sub(1) };
        if suspicion.steps == 0 {
            shards.remove(&shard);
        }
    }

    /// A row could not be read in time. True when that has happened often enough.
    fn strike(&self, shard: ShardId, id: i64) -> bool {
        let mut shards = self.lock();
        let strikes = shards.entry(shard).or_default().strikes.entry(id).or_default();
        *strikes = strikes.saturating_add(1);
        *strikes >= STRIKES
    }
}

/// A claimed event that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) id: i64,
    /// The digest of its key; `None` if nothing waits for it.
    pub(super) key: Option<[u8; 16]>,
    /// `None`: the server gave it out, and our side has no way to represent it.
    pub(super) sqlstate: Option<SqlState>,
    /// Perhaps it can be read next time: it stays as it is, and its key waits.
    pub(super) left: bool,
}

/// What a careful claim has read.
pub(super) struct Careful {
    pub(super) found: Found,
    /// In the order of their ids.
    pub(super) unread: Vec<Unread>,
    /// Not all of the rows that were asked for could be read.
    pub(super) cut_short: bool,
}

impl Careful {
    /// All of it was read.
    pub(super) fn plain(found: Found) -> Self {
        Self { found, unread: Vec::new(), cut_short: false }
    }
}

/// What a careful claim is about to read.
pub(super) struct Wanted {
    ids: Vec<i64>,
    /// How many of them, at the beginning, wait again.
    again: usize,
    /// There may be more.
    full: bool,
    /// Whether another transaction keeps a row from being settled is looked at, as a claim without care does.
    locks: bool,
}

/// The ids that `claim` asks for, events whose outcome is known left out.
pub(super) async fn ids(
    tx: &Transaction<'_>,
    shard: ShardId,
    range: (i64, i64),
    claim: Claim<'_>,
    has_requeued: bool,
    ahead: Option<&[i64]>,
) -> Result<Wanted, OutboxError> {
    let mut wanted = Wanted { ids: Vec::new(), again: 0, full: false, locks: false };
    match claim.source {
        Source::Nothing => return Ok(wanted),
        Source::Manifest(ids) => {
            wanted.ids.extend_from_slice(ids);
            return Ok(wanted);
        }
        Source::Waiting => wanted.locks = ahead.is_none(),
    }
    let (low_id, ceiling) = range;
    let most = i64::from(claim.limits.rows.get());
    if has_requeued {
        let rows = tx.query(&tx.prepare_cached(CAREFUL_IDS_AGAIN).await?, &[&shard, &ceiling, &most]).await?;
        wanted.ids.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    wanted.again = wanted.ids.len();
    let rest = most - wanted.again as i64;
    if rest <= 0 {
        wanted.full = true;
        return Ok(wanted);
    }
    let ahead = ahead.unwrap_or_default();
    let rows = tx.query(&tx.prepare_cached(CAREFUL_IDS).await?, &[&shard, &low_id, &ceiling, &ahead, &rest]).await?;
    wanted.ids.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    wanted.full = rows.len() as i64 >= rest;
    Ok(wanted)
}

/// Reads what `claim` asks for by its ids, so that a row which cannot be read keeps no other from being read.
pub(super) async fn read(
    tx: &Transaction<'_>,
    care: Care,
    watch: &Watch,
    shard: ShardId,
    range: (i64, i64),
    claim: Claim<'_>,
    Wanted { ids, again, full, locks }: Wanted,
) -> Result<Careful, OutboxError> {
    // Not many more than fit.
    let fitting =
        claim.limits.bytes.checked_div(claim.limits.row_bytes).map_or(READ_TOGETHER, |rows| rows as usize + 1);
    let together = match care {
        Care::Plain => fitting,
        Care::Until(_) | Care::Doubting(_) => fitting.min(READ_TOGETHER),
    };
    let mut careful = Careful::plain(Found::default());
    let (mut first_left, mut late) = (None, false);
    let mut size = if watch.is_slow(shard) { 1 } else { together };
    let mut rest = ids.as_slice();
    while let Some((part, behind)) = rest.split_at_checked(size.min(rest.len())).filter(|(part, _)| !part.is_empty()) {
        rest = behind;
        let enough = !matches!(claim.source, Source::Manifest(_)) && careful.found.bytes >= claim.limits.bytes;
        let is_late = care.until().is_some_and(|until| monotonic() >= until);
        if enough || (is_late && !careful.found.rows.is_empty()) {
            first_left = part.first().copied();
            break;
        }
        let cut = care.over(tx, part, |ids| read_all(tx, ids, claim.limits.record_bytes, locks)).await?;
        for found in cut.done {
            careful.found.bytes += found.bytes;
            careful.found.rows.extend(found.rows);
        }
        size = size.saturating_mul(2).min(together);
        for row in cut.refused {
            let in_vain = ran_out_of_time(row.sqlstate.as_ref());
            if in_vain {
                (size, late) = (1, true);
            }
            let left = in_vain && !watch.strike(shard, row.item);
            careful.unread.push(Unread { id: row.item, key: None, sqlstate: row.sqlstate, left });
        }
        if let Some(left) = cut.left.first() {
            first_left = Some(*left);
            late = true;
            break;
        }
    }
    if care.looks() {
        watch.set_slow(shard, late);
    }
    careful.cut_short = first_left.is_some();
    careful.found.full = full || careful.cut_short;
    let last_again = ids.get(..again).and_then(<[i64]>::last).copied();
    // Of other rows than those of a claim nothing is known: a watermark that passed them would lose them.
    let claimed = matches!(claim.source, Source::Waiting) || fault(Fault::WatermarkGuesses);
    careful.found.covered = match (first_left, ids.last()) {
        (Some(left), _) if last_again.is_some_and(|last| left <= last) => None,
        (Some(left), _) => Some(left - 1),
        (None, Some(last)) if full => (ids.len() > again).then_some(*last),
        (None, _) => Some(range.1),
    }
    .filter(|_| claimed);
    add_keys(tx, care, &mut careful.unread).await?;
    Ok(careful)
}

async fn read_all(tx: &Transaction<'_>, ids: Vec<i64>, record_bytes: u64, locks: bool) -> Result<Found, OutboxError> {
    let found = claim::by_ids(tx, &ids, record_bytes, locks).await?;
    for row in &found.rows {
        rows::event(row)?;
    }
    Ok(found)
}

/// The digests of the keys, as far as the server can compute them.
async fn add_keys(tx: &Transaction<'_>, care: Care, unread: &mut [Unread]) -> Result<(), OutboxError> {
    if unread.is_empty() {
        return Ok(());
    }
    let ids: Vec<i64> = unread.iter().map(|row| row.id).collect();
    let statement = &tx.prepare_cached(CAREFUL_KEYS).await?;
    let cut = care.over(tx, &ids, |ids: Vec<i64>| async move { Ok(tx.query(statement, &[&ids]).await?) }).await?;
    let keys: HashMap<i64, Option<[u8; 16]>> =
        cut.done.iter().flatten().map(|row| (row.get(0), row.get::<_, Option<&str>>(1).and_then(digest))).collect();
    for row in unread {
        row.key = keys.get(&row.id).copied().flatten();
    }
    Ok(())
}

/// Of its hexadecimal digits, as PostgreSQL writes it.
fn digest(hex: &str) -> Option<[u8; 16]> {
    u128::from_str_radix(hex, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn care_ends_some_steps_after_the_last_bad_row() {
        let watch = Watch::default();
        assert!(!watch.is_on(3));
        watch.begin(3, None);
        for _ in 1..STEPS {
            watch.step(3, false);
        }
        assert!(watch.is_on(3) && !watch.is_on(4));
        watch.step(3, true);
        for _ in 0..STEPS {
            assert!(watch.is_on(3));
            watch.step(3, false);
        }
        assert!(!watch.is_on(3));
    }

    #[test]
    fn a_step_that_ran_out_of_time_is_followed_by_one_that_begins_with_a_single_row() {
        let watch = Watch::default();
        watch.begin(3, Some(&SqlState::CHECK_VIOLATION));
        assert!(!watch.is_slow(3));
        watch.begin(3, Some(&SqlState::QUERY_CANCELED));
        assert!(watch.is_slow(3) && !watch.is_slow(4));
        watch.set_slow(3, false);
        assert!(!watch.is_slow(3));
    }

    #[test]
    fn a_row_is_late_several_times_before_it_counts() {
        let watch = Watch::default();
        assert!(!watch.strike(1, 7) && !watch.strike(1, 7) && !watch.strike(1, 8));
        assert!(watch.strike(1, 7));
    }

    #[test]
    fn a_digest_is_that_of_the_server() {
        assert_eq!(digest("900150983cd24fb0d6963f7d28e17f72"), Some(super::super::triage::identity("abc")));
        assert_eq!(digest("x"), None);
    }
}

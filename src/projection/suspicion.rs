//! Whether one record is to blame for a failure that is not about data: a statement that takes too long, an internal
//! error, memory that runs out, an error by which PostgreSQL blames itself.
//!
//! Pure; times are monotonic. The same failures come from a slow server or a broken projection, and then they hit every
//! record. Invariant: a record is found guilty only after it has failed several times by itself, and only if other
//! events have passed after it first failed and before it failed last: what was repaired in between was no fault of the
//! record. The second record that fails in the same way needs that evidence alone. Where PostgreSQL blames itself, no
//! record is even looked for before that has lasted.

use std::time::Duration;

use crate::retry::Recurring;

/// How often a record fails by itself before it is blamed. Between two attempts its partition waits for a second or
/// more, so that a short disturbance passes.
const FAILURES: u32 = 3;

/// How often and for how long PostgreSQL blames itself before a record is looked for. Guesses: a deadlock or a failover
/// is over sooner, and the partition does not wait for minutes.
const DOUBTS: u32 = 4;
const DOUBTS_LAST: Duration = Duration::from_secs(15);
/// The same once a record was found guilty of it.
const DOUBTS_LAST_AGAIN: Duration = Duration::from_secs(3);

/// What failed: the projection (`None`: a statement of the consumer itself) and the SQLSTATE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    pub projection: Option<String>,
    pub sqlstate: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Suspect {
    offset: i64,
    ground: Ground,
    failures: u32,
    /// How many folds of others had passed when it failed first.
    passed: u64,
    /// There was evidence at an earlier failure.
    confirmed: bool,
}

/// What is known of the records of one partition. Another instance begins the attempts again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspicion {
    suspect: Option<Suspect>,
    /// A part with more records than one has failed, when so many had passed.
    failed_part: Option<(Ground, u64)>,
    convicted: Option<Ground>,
    /// PostgreSQL has blamed itself, and nothing has passed since.
    doubt: Option<Recurring<Ground>>,
}

impl Suspicion {
    /// The offset of the record that failed by itself.
    pub fn offset(&self) -> Option<i64> {
        self.suspect.as_ref().map(|suspect| suspect.offset)
    }

    /// PostgreSQL has blamed itself for a failure. True when that has gone on for long enough to look for a record.
    pub fn doubts(&mut self, ground: &Ground, now: Duration) -> bool {
        let doubt = match &mut self.doubt {
            Some(doubt) => {
                doubt.failed(ground.clone(), now);
                doubt
            }
            none => none.insert(Recurring::first(ground.clone(), now)),
        };
        let known = self.convicted.as_ref() == Some(ground);
        doubt.persists(DOUBTS, if known { DOUBTS_LAST_AGAIN } else { DOUBTS_LAST }, now)
    }

    /// A whole batch has passed.
    pub fn all_passed(&mut self) {
        self.doubt = None;
    }

    /// A part has failed, and has more records than one. `passed`: folds that have passed so far.
    pub fn part_failed(&mut self, ground: &Ground, passed: u64) {
        if self.failed_part.as_ref().is_none_or(|(known, _)| known != ground) {
            self.failed_part = Some((ground.clone(), passed));
        }
    }

    /// The record at `offset` has failed by itself.
    pub fn failed_alone(&mut self, offset: i64, ground: &Ground, passed: u64) {
        match &mut self.suspect {
            Some(suspect) if suspect.offset == offset && suspect.ground == *ground => suspect.failures += 1,
            Some(_) | None => {
                let since = self.failed_part.take().filter(|(known, _)| known == ground);
                let passed = since.map_or(passed, |(_, passed)| passed);
                self.suspect = Some(Suspect { offset, ground: ground.clone(), failures: 1, passed, confirmed: false });
            }
        }
    }

    /// Nothing but evidence is missing.
    pub fn is_tried_enough(&self) -> bool {
        self.suspect.as_ref().is_some_and(|suspect| {
            suspect.failures >= FAILURES || self.convicted.as_ref().is_some_and(|ground| *ground == suspect.ground)
        })
    }

    /// Whether others have passed since it failed first. `passed`: folds that have passed so far.
    pub fn has_evidence(&self, passed: u64) -> bool {
        self.suspect.as_ref().is_some_and(|suspect| passed > suspect.passed)
    }

    /// There is evidence. It counts only if the record fails once more: what failed may have been repaired since.
    pub fn confirm(&mut self) {
        if let Some(suspect) = &mut self.suspect {
            suspect.confirmed = true;
        }
    }

    /// Whether there was evidence before the record failed last.
    pub fn is_confirmed(&self) -> bool {
        self.suspect.as_ref().is_some_and(|suspect| suspect.confirmed)
    }

    /// The record is blamed: returns how often it has failed.
    pub fn convict(&mut self) -> u32 {
        let Some(suspect) = self.suspect.take() else { return 0 };
        self.failed_part = None;
        self.convicted = Some(suspect.ground);
        suspect.failures
    }

    /// The partition was folded up to here, so that whatever lies before is cleared.
    pub fn passed(&mut self, next_offset: i64) {
        self.suspect.take_if(|suspect| suspect.offset < next_offset);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ground(sqlstate: &str) -> Ground {
        Ground { projection: Some("p".to_owned()), sqlstate: Some(sqlstate.to_owned()) }
    }

    fn guilty(suspicion: &Suspicion, passed: u64) -> bool {
        suspicion.is_tried_enough() && suspicion.has_evidence(passed)
    }

    #[test]
    fn a_record_is_blamed_after_three_failures_and_only_if_others_pass() {
        let (mut suspicion, slow) = (Suspicion::default(), ground("57014"));
        for failures in 1..=2 {
            suspicion.failed_alone(17, &slow, 5);
            assert!(!guilty(&suspicion, 100), "{failures} failures are not enough");
        }
        suspicion.failed_alone(17, &slow, 5);
        assert!(!guilty(&suspicion, 5), "nobody has passed");
        assert!(guilty(&suspicion, 6));
        assert_eq!((suspicion.convict(), suspicion.offset()), (3, None));
    }

    #[test]
    fn what_passed_while_the_record_was_looked_for_counts() {
        let (mut suspicion, internal) = (Suspicion::default(), ground("XX000"));
        suspicion.part_failed(&internal, 5);
        suspicion.part_failed(&internal, 7);
        for _ in 0..3 {
            suspicion.failed_alone(17, &internal, 9);
        }
        assert!(guilty(&suspicion, 6));
    }

    #[test]
    fn where_postgresql_blames_itself_that_has_to_last() {
        let (mut suspicion, full) = (Suspicion::default(), ground("53100"));
        let at = Duration::from_secs;
        for second in [0, 1, 2, 3, 14] {
            assert!(!suspicion.doubts(&full, at(second)), "{second}");
        }
        assert!(suspicion.doubts(&full, at(15)));
        assert!(!suspicion.doubts(&ground("40001"), at(16)), "another failure begins anew");
        for second in [20, 21, 40] {
            assert!(!suspicion.doubts(&full, at(second)), "three times are not enough");
        }
        assert!(suspicion.doubts(&full, at(41)));
        suspicion.all_passed();
        assert!(!suspicion.doubts(&full, at(60)));
    }

    #[test]
    fn what_a_record_was_guilty_of_before_lasts_less_long() {
        let (mut suspicion, full) = (Suspicion::default(), ground("53100"));
        let at = Duration::from_secs;
        suspicion.failed_alone(17, &full, 0);
        suspicion.convict();
        for second in [0, 1, 2] {
            assert!(!suspicion.doubts(&full, at(second)), "{second}");
        }
        assert!(suspicion.doubts(&full, at(3)));
    }

    #[test]
    fn another_record_or_another_failure_begins_anew() {
        let mut suspicion = Suspicion::default();
        for (offset, code) in [(17, "57014"), (17, "57014"), (17, "XX000"), (17, "XX000"), (18, "XX000")] {
            suspicion.failed_alone(offset, &ground(code), 0);
            assert!(!guilty(&suspicion, 1), "{offset} {code}");
        }
        suspicion.passed(18);
        assert_eq!(suspicion.offset(), Some(18));
        suspicion.passed(19);
        assert_eq!(suspicion.offset(), None);
    }

    #[test]
    fn the_second_record_of_a_kind_needs_evidence_alone() {
        let mut suspicion = Suspicion::default();
        for _ in 0..3 {
            suspicion.failed_alone(17, &ground("XX000"), 0);
        }
        suspicion.convict();
        suspicion.failed_alone(20, &ground("XX000"), 8);
        assert!(!guilty(&suspicion, 8) && guilty(&suspicion, 9));
        suspicion.failed_alone(21, &ground("57014"), 8);
        assert!(!guilty(&suspicion, 9), "of another kind it is the first");
    }
}

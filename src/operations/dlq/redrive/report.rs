//! What became of dead letters, as it is reported. The names of the fields are public.

use std::collections::HashSet;

use serde::Serialize;

use super::super::{missing_names, none_missing};
use crate::error::{Code, Error};
use crate::operations::Place;
use crate::operations::dlq::letter::DeadLetter;
use crate::outbox::dead_letters::redrive::{Outcome, WENT_BACK};

/// What became of a dead letter, or would.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    pub original_topic: Option<String>,
    pub outcome: &'static str,
    /// The row that is published, where it is known.
    pub row: Option<i64>,
    pub why: Option<String>,
    /// Its topic deletes or refuses records of that age, so the event may be gone at once.
    pub expired: bool,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    pub dry_run: bool,
    pub reopened: usize,
    pub appended: usize,
    pub left_alone: usize,
    /// Of those left alone: they would have gone back a moment before, and somebody else was faster.
    pub overtaken: usize,
    /// Of these, the ones that did not go back at all.
    #[serde(skip)]
    pub(super) decided: usize,
    pub refused: usize,
    /// Of those that go back: too old for their topic.
    pub expired: usize,
    /// The id for `jobs`; `null` when this run is not recorded.
    pub job: Option<String>,
    pub letters: Vec<Line>,
}

impl Line {
    pub(super) fn new(letter: &DeadLetter) -> Self {
        Self {
            topic: letter.place.topic.clone(),
            partition: letter.place.partition,
            offset: letter.place.offset,
            original_topic: letter.original_topic().map(str::to_owned),
            outcome: "",
            row: None,
            why: None,
            expired: false,
        }
    }

    /// As a record is named.
    pub fn name(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }

    pub(super) fn goes_back(&self) -> bool {
        matches!(self.outcome, "reopened" | "appended")
    }

    pub(super) fn became(&mut self, outcome: Outcome) {
        (self.outcome, self.row, self.why) = match outcome {
            Outcome::Reopened(row) => ("reopened", Some(row), None),
            Outcome::Appended(row) => ("appended", (row > 0).then_some(row), None),
            Outcome::LeftAlone(why) => ("left-alone", None, Some(why.to_owned())),
            Outcome::Refused(why) => ("refused", None, Some(why)),
        };
    }
}

pub(super) fn expect_found(places: &[Place], lines: &[Line]) -> Result<(), Error> {
    if places.is_empty() && lines.is_empty() {
        return Err(Error::new(Code::NotFound, "no dead letter matches").hint("to list them run: outbox-relay dlq ls"));
    }
    none_missing(&missing_names(places, lines.iter().map(Line::name)))
}

/// Lines that were to go back and were left alone: whether each of them went back all the same.
pub(super) fn overtaken(planned: &[Line], done: &[Line]) -> Vec<bool> {
    let wanted: HashSet<String> = planned.iter().filter(|line| line.goes_back()).map(Line::name).collect();
    let left = done.iter().filter(|line| line.outcome == "left-alone" && wanted.contains(&line.name()));
    left.map(|line| line.why.as_deref() == Some(WENT_BACK)).collect()
}

pub(super) fn expired(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.goes_back() && line.expired).count()
}

impl Report {
    pub(super) fn new(letters: Vec<Line>, overtaken: &[bool], dry_run: bool) -> Self {
        let count = |outcome: &str| letters.iter().filter(|line| line.outcome == outcome).count();
        Self {
            dry_run,
            reopened: count("reopened"),
            appended: count("appended"),
            left_alone: count("left-alone"),
            overtaken: overtaken.len(),
            decided: overtaken.iter().filter(|went_back| !**went_back).count(),
            refused: count("refused"),
            expired: expired(&letters),
            job: None,
            letters,
        }
    }

    /// Errors: some of them cannot go back, or somebody else has discarded them meanwhile.
    pub fn verdict(&self) -> Result<(), Error> {
        if self.dry_run {
            return Ok(());
        }
        let code = if self.reopened + self.appended > 0 { Code::PartlyDone } else { Code::CheckNotMet };
        if self.refused == 0 && self.decided > 0 {
            let message = format!("{} dead letters did not go back: their events were no longer FAILED", self.decided);
            return Err(Error::new(code, message)
                .hint("another command was faster; outbox-relay dlq ls says what became of them"));
        }
        if self.refused == 0 {
            return Ok(());
        }
        Err(Error::new(code, format!("{} dead letters cannot go back as they are", self.refused))
            .hint("the reasons are listed above, and for each one with -o ndjson; the others were sent back"))
    }
}

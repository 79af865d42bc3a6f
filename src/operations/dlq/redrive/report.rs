//! What became of dead letters, as it is reported. The names of the fields are public.

use std::collections::HashSet;

use serde::Serialize;

use super::super::{missing_names, none_missing};
use crate::error::{Code, Error};
use crate::operations::Place;
use crate::operations::dlq::letter::DeadLetter;
use crate::outbox::dead_letters::redrive::Outcome;

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

/// Lines that were to go back and were left alone.
pub(super) fn overtaken(planned: &[Line], done: &[Line]) -> usize {
    let wanted: HashSet<String> = planned.iter().filter(|line| line.goes_back()).map(Line::name).collect();
    done.iter().filter(|line| line.outcome == "left-alone" && wanted.contains(&line.name())).count()
}

pub(super) fn expired(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.goes_back() && line.expired).count()
}

impl Report {
    pub(super) fn new(letters: Vec<Line>, overtaken: usize, dry_run: bool) -> Self {
        let count = |outcome: &str| letters.iter().filter(|line| line.outcome == outcome).count();
        Self {
            dry_run,
            reopened: count("reopened"),
            appended: count("appended"),
            left_alone: count("left-alone"),
            overtaken,
            refused: count("refused"),
            expired: expired(&letters),
            job: None,
            letters,
        }
    }

    /// Errors: some of them cannot go back.
    pub fn verdict(&self) -> Result<(), Error> {
        if self.refused == 0 || self.dry_run {
            return Ok(());
        }
        let code = if self.reopened + self.appended > 0 { Code::PartlyDone } else { Code::CheckNotMet };
        Err(Error::new(code, format!("{} dead letters cannot go back as they are", self.refused))
            .hint("the reasons are listed above, and for each one with -o ndjson; the others were sent back"))
    }
}

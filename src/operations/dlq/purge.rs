//! Dead letters deleted from Kafka, which can only cut off the beginning of a partition.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::letter::DeadLetter;
use super::{Chosen, Filter, LOOK_UP, ago_from_now, blocking, ranges, ranges_of, states};
use crate::broker::admin::Admin;
use crate::broker::reader::{self, Range};
use crate::config::Config;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::operations::{Author, Place, Progress, Result};
use crate::outbox::dead_letters::redrive::{self as letters, State};

/// Up to where to delete.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Everything up to these records, themselves included. When there are any, nothing else counts.
    pub places: Vec<Place>,
    /// Topics that dead letters were meant for. Empty: any.
    pub topic: Vec<String>,
    pub older_than: Option<Duration>,
    /// Also those that are still waiting.
    pub force: bool,
}

/// What is cut off from one partition.
#[derive(Debug, Default, Serialize)]
pub struct Part {
    pub topic: String,
    pub partition: i32,
    pub from: i64,
    /// The first offset that stays.
    pub to: i64,
    pub dead_letters: u64,
    pub waiting: u64,
    pub unknown_row: u64,
    pub redriven: u64,
    pub discarded: u64,
    pub deleted: bool,
    pub why_not: Option<String>,
}

impl Part {
    fn undecided(&self) -> u64 {
        self.waiting + self.unknown_row
    }
}

/// What is deleted, by partition.
#[derive(Debug)]
pub struct Plan {
    parts: Vec<Part>,
    force: bool,
}

/// What was deleted, by partition.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Report {
    pub parts: Vec<Part>,
}

/// Looks where each partition would be cut. Changes nothing.
pub async fn plan(settings: &Config, pool: &Pool, request: &Request) -> Result<Plan> {
    let plan = Plan { parts: look(settings, pool, request).await?, force: request.force };
    if plan.total() == 0 {
        return Err(Error::new(
            Code::NotFound,
            "nothing to delete: no partition begins with a dead letter that matches",
        )
        .hint("Kafka deletes from the beginning of a partition on; outbox-relay dlq ls lists what is there")
        .into());
    }
    Ok(plan)
}

impl Plan {
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn total(&self) -> u64 {
        self.parts.iter().map(|part| part.dead_letters).sum()
    }

    /// Dead letters that never went back.
    pub fn undecided(&self) -> u64 {
        self.parts.iter().map(Part::undecided).sum()
    }

    /// Errors: [`Code::CheckNotMet`] when dead letters that wait would be deleted, and that was not asked for.
    pub fn may_run(&self) -> Result<(), Error> {
        let (undecided, total) = (self.undecided(), self.total());
        if undecided == 0 || self.force {
            return Ok(());
        }
        Err(Error::new(Code::CheckNotMet, format!("{undecided} of {total} dead letters are still waiting; nothing was deleted"))
            .hint("outbox-relay dlq redrive sends them back, outbox-relay events discard gives a row up; --force deletes them all the same"))
    }

    pub async fn run(self, settings: &Config, pool: &Pool, author: &Author, progress: &dyn Progress) -> Result<Report> {
        self.may_run()?;
        let mut parts = self.parts;
        let details = serde_json::json!({ "parts": &parts, "force": self.force });
        letters::note_purge(pool, &details, author).await?;
        delete(settings, pool, &mut parts, progress).await?;
        Ok(Report { parts })
    }
}

impl Report {
    /// Errors: Kafka did not delete all of it.
    pub fn verdict(&self) -> Result<(), Error> {
        let kept: Vec<String> = self
            .parts
            .iter()
            .filter_map(|part| Some(format!("{}/{}: {}", part.topic, part.partition, part.why_not.as_deref()?)))
            .collect();
        if kept.is_empty() {
            return Ok(());
        }
        let code = if kept.len() < self.parts.len() { Code::PartlyDone } else { Code::CheckNotMet };
        Err(Error::new(code, format!("Kafka did not delete {}", kept.join(", ")))
            .hint("it needs the DELETE right on the topic, and cleanup.policy = delete"))
    }
}

/// Where each partition would be cut, and what would be lost.
async fn look(settings: &Config, pool: &Pool, request: &Request) -> Result<Vec<Part>> {
    let (ranges, chosen) = if request.places.is_empty() {
        let filter = Filter { topic: request.topic.clone(), ..Filter::default() };
        let until = request.older_than.map(ago_from_now);
        (ranges(settings, pool, &filter).await?, Chosen { topics: request.topic.clone(), until, ..Chosen::default() })
    } else {
        (up_to(settings, request).await?, Chosen::default())
    };
    let mut parts: BTreeMap<(String, i32), Part> = ranges
        .iter()
        .map(|range| {
            let part = Part {
                topic: range.topic.clone(),
                partition: range.partition,
                from: range.from,
                to: range.to,
                ..Part::default()
            };
            ((range.topic.clone(), range.partition), part)
        })
        .collect();
    // Nothing behind the first dead letter that stays is looked at again.
    let (to, mut letters) = tokio::sync::mpsc::channel::<DeadLetter>(LOOK_UP);
    let (kafka, sought) = (settings.kafka.clone(), ranges);
    let reading = blocking(move || {
        let mut cut: BTreeMap<(String, i32), i64> = BTreeMap::new();
        reader::read(&kafka, &sought, |found| {
            let place = (found.topic.clone(), found.partition);
            if cut.contains_key(&place) {
                return true;
            }
            let mut letter = DeadLetter::read(found);
            if !chosen.has(&letter) {
                cut.insert(place, letter.place.offset);
                return true;
            }
            letter.drop_value();
            to.blocking_send(letter).is_ok()
        })?;
        Ok(cut)
    });
    let counting = async {
        let mut batch = Vec::new();
        while letters.recv_many(&mut batch, LOOK_UP).await > 0 {
            for (letter, state) in batch.iter().zip(states(pool, &batch).await?) {
                if let Some(part) = parts.get_mut(&(letter.place.topic.clone(), letter.place.partition)) {
                    part.dead_letters += 1;
                    match state {
                        State::Waiting { .. } => part.waiting += 1,
                        State::UnknownRow => part.unknown_row += 1,
                        State::Redriven(_) => part.redriven += 1,
                        State::Discarded => part.discarded += 1,
                    }
                }
            }
            batch.clear();
        }
        drop(letters);
        Ok::<_, crate::operations::Failure>(parts)
    };
    let (cut, parts) = tokio::join!(reading, counting);
    let (cut, mut parts) = (cut?, parts?);
    for (place, offset) in cut {
        if let Some(part) = parts.get_mut(&place) {
            part.to = offset;
        }
    }
    Ok(parts.into_values().filter(|part| part.dead_letters > 0).collect())
}

/// The partitions of the places, each up to the last of them.
async fn up_to(settings: &Config, request: &Request) -> Result<Vec<Range>> {
    let named = ranges_of(&settings.kafka, &request.places).await?;
    let (kafka, topics) = (settings.kafka.clone(), named.iter().map(|range| range.topic.clone()).collect::<Vec<_>>());
    let all = blocking(move || reader::ranges(&kafka, &topics)).await?;
    Ok(named
        .into_iter()
        .map(|range| {
            let whole = all.iter().find(|whole| (&whole.topic, whole.partition) == (&range.topic, range.partition));
            Range { from: whole.map_or(range.from, |whole| whole.from), ..range }
        })
        .collect())
}

async fn delete(settings: &Config, pool: &Pool, parts: &mut [Part], progress: &dyn Progress) -> Result<()> {
    let below: Vec<(String, i32, i64)> =
        parts.iter().map(|part| (part.topic.clone(), part.partition, part.to)).collect();
    let refused = Admin::new(&settings.kafka)?.delete_records(&below).await?;
    for part in parts {
        let refusal = refused.iter().find(|(topic, partition, _)| (topic, *partition) == (&part.topic, part.partition));
        part.why_not = refusal.map(|(_, _, why)| why.clone());
        part.deleted = part.why_not.is_none();
        if part.deleted
            && let Err(error) = letters::forget(pool, &part.topic, part.partition, part.to).await
        {
            progress.remark(&format!("the notes of what went back stay in outbox_redriven: {}", error.chain()));
        }
    }
    Ok(())
}

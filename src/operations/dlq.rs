//! Dead letters in Kafka, each with what the outbox knows of it.
//!
//! A dead letter is read from its topic, which is the only place that has them all: the outbox may have cleaned up the
//! rows, and a consumer writes dead letters that never were rows.

mod letter;
pub mod purge;
pub mod redrive;
mod report;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::{Place, Result, When};
use crate::broker::reader::{self, Found, Range};
use crate::config::{Config, KafkaConfig};
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::outbox::dead_letters::redrive::{self as letters, State};
use letter::DeadLetter;
#[cfg(test)]
pub(crate) use report::tests;
pub use report::{LetterLine, WholeLetter};

/// Dead letters whose state is asked for at once.
const LOOK_UP: usize = 1_000;

/// Which dead letters; all conditions must hold.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Topics that they were meant for. Empty: any.
    pub topic: Vec<String>,
    pub class: Option<String>,
    pub since: Option<When>,
    pub until: Option<When>,
    /// Dead-letter topics to read, instead of those of the settings.
    pub dlq: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Listed {
    pub letters: Vec<LetterLine>,
    /// Of all that were read.
    #[serde(skip)]
    pub matching: u64,
}

#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Shown {
    pub letters: Vec<WholeLetter>,
    #[serde(skip)]
    missing: Vec<String>,
}

fn dead_letter_topic(settings: &Config, topic: &str) -> String {
    settings.dead_letter.topic.replace("{topic}", topic)
}

/// The dead letters that failed last, `limit` at most.
pub async fn list(settings: &Config, pool: &Pool, filter: &Filter, limit: usize) -> Result<Listed> {
    let chosen = Chosen::new(filter)?;
    let ranges = ranges(settings, pool, filter).await?;
    let (newest, matching) = read(&settings.kafka, ranges, move |each| {
        let (mut newest, mut matching): (Vec<DeadLetter>, u64) = (Vec::new(), 0);
        each(&mut |found| {
            let mut letter = DeadLetter::read(found);
            if chosen.has(&letter) {
                matching += 1;
                letter.drop_value();
                newest.push(letter);
                // Twice the list, so that sorting is rare and memory is bounded whatever lies in the topics.
                if newest.len() >= limit * 2 {
                    cut(&mut newest, limit);
                }
            }
            true
        })?;
        cut(&mut newest, limit);
        Ok((newest, matching))
    })
    .await?;
    let mut letters = Vec::with_capacity(newest.len());
    for part in newest.chunks(LOOK_UP) {
        let states = states(pool, part).await?;
        letters.extend(part.iter().zip(states).map(|(letter, state)| LetterLine::new(letter, state)));
    }
    Ok(Listed { letters, matching })
}

/// Keeps those that failed last.
fn cut(letters: &mut Vec<DeadLetter>, limit: usize) {
    letters.sort_by(|a, b| (b.failed(), &b.place).cmp(&(a.failed(), &a.place)));
    letters.truncate(limit);
}

async fn states(pool: &Pool, letters: &[DeadLetter]) -> Result<Vec<State>> {
    let named: Vec<letters::Letter> = letters.iter().map(DeadLetter::to_letter).collect();
    states_of(pool, named.iter()).await
}

async fn states_of<'a>(pool: &Pool, letters: impl Iterator<Item = &'a letters::Letter>) -> Result<Vec<State>> {
    Ok(letters::states(pool, &letters.collect::<Vec<_>>()).await?)
}

/// Dead letters with their keys, headers and values.
pub async fn show(settings: &Config, pool: &Pool, places: &[Place]) -> Result<Shown> {
    let ranges = ranges_of(&settings.kafka, places).await?;
    let chosen = Chosen::of_places(places);
    let found = read(&settings.kafka, ranges, move |each| {
        let mut found = Vec::new();
        each(&mut |record| {
            found.extend(Some(DeadLetter::read(record)).filter(|letter| chosen.has(letter)));
            true
        })?;
        Ok(found)
    })
    .await?;
    let states = states(pool, &found).await?;
    let letters = found.iter().zip(states).map(|(letter, state)| WholeLetter::new(letter, state)).collect();
    Ok(Shown { letters, missing: missing_names(places, found.iter().map(DeadLetter::name)) })
}

impl Shown {
    /// Errors: [`Code::NotFound`] with the places where there is no record.
    pub fn verdict(&self) -> Result<(), Error> {
        none_missing(&self.missing)
    }
}

/// Places where there is no record: an offset of the end of a transaction, or of one that was aborted.
fn missing_names(places: &[Place], found: impl Iterator<Item = String>) -> Vec<String> {
    let there: BTreeSet<String> = found.collect();
    places.iter().map(Place::to_string).filter(|place| !there.contains(place)).collect()
}

fn none_missing(missing: &[String]) -> Result<(), Error> {
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::NotFound, format!("no record at {}", missing.join(", ")))
        .hint("to list them run: outbox-relay dlq ls"))
}

/// The parts of dead-letter topics that a filter is about: from their beginnings to where they end now.
async fn ranges(settings: &Config, pool: &Pool, filter: &Filter) -> Result<Vec<Range>> {
    let topics: BTreeSet<String> = if !filter.dlq.is_empty() {
        filter.dlq.iter().cloned().collect()
    } else if !filter.topic.is_empty() {
        filter.topic.iter().map(|topic| dead_letter_topic(settings, topic)).collect()
    } else {
        let (events, mut letters) = letters::topics(pool).await?;
        letters.extend(events.iter().chain(&settings.consumer.topics).map(|topic| dead_letter_topic(settings, topic)));
        letters
    };
    let (kafka, topics) = (settings.kafka.clone(), topics.into_iter().collect::<Vec<_>>());
    let named = !(filter.dlq.is_empty() && filter.topic.is_empty());
    let wanted = topics.clone();
    let ranges = blocking(move || reader::ranges(&kafka, &wanted)).await?;
    let missing: Vec<&String> =
        topics.iter().filter(|topic| !ranges.iter().any(|range| range.topic == **topic)).collect();
    if named && !missing.is_empty() {
        let list = missing.iter().map(|topic| topic.as_str()).collect::<Vec<_>>().join(", ");
        return Err(Error::new(Code::NotFound, format!("no dead-letter topic {list}"))
            .hint("nothing has failed there yet, or it has another name: --dlq NAME")
            .into());
    }
    Ok(ranges)
}

/// One range for each place, which must exist.
async fn ranges_of(kafka: &KafkaConfig, places: &[Place]) -> Result<Vec<Range>> {
    let topics: BTreeSet<String> = places.iter().map(|place| place.topic.clone()).collect();
    let (settings, topics) = (kafka.clone(), topics.into_iter().collect::<Vec<_>>());
    let all = blocking(move || reader::ranges(&settings, &topics)).await?;
    let inside = |place: &Place| {
        all.iter().any(|range| {
            range.topic == place.topic
                && range.partition == place.partition
                && (range.from..range.to).contains(&place.offset)
        })
    };
    let missing: Vec<String> = places.iter().filter(|place| !inside(place)).map(Place::to_string).collect();
    none_missing(&missing)?;
    // One range per partition, since a reader has one position in each; what lies between is left out by the caller.
    let mut ranges: Vec<Range> = Vec::new();
    for place in places {
        match ranges.iter_mut().find(|range| range.topic == place.topic && range.partition == place.partition) {
            Some(range) => (range.from, range.to) = (range.from.min(place.offset), range.to.max(place.offset + 1)),
            None => ranges.push(Range {
                topic: place.topic.clone(),
                partition: place.partition,
                from: place.offset,
                to: place.offset + 1,
            }),
        }
    }
    Ok(ranges)
}

/// Runs `work` where it may block, with a function that shows it every record of the ranges.
async fn read<T: Send + 'static>(
    kafka: &KafkaConfig,
    ranges: Vec<Range>,
    work: impl FnOnce(&mut dyn FnMut(&mut dyn FnMut(Found) -> bool) -> Result<u64, Error>) -> Result<T, Error>
    + Send
    + 'static,
) -> Result<T> {
    let kafka = kafka.clone();
    blocking(move || work(&mut |each| reader::read(&kafka, &ranges, each))).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|join| Error::new(Code::Unexpected, "reading Kafka panicked").caused_by(join))??)
}

/// A filter with its times worked out. By the clock of this host, like the `failed_at` of whoever wrote the dead
/// letter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Chosen {
    topics: Vec<String>,
    class: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    /// If not empty, these and nothing else.
    places: BTreeSet<String>,
}

impl Chosen {
    fn new(filter: &Filter) -> Result<Self, Error> {
        let at = |when: Option<When>| {
            when.map(|when| match when {
                When::At(at) => at,
                When::Ago(ago) => ago_from_now(ago),
            })
        };
        let (since, until) = (at(filter.since), at(filter.until));
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err(Error::new(Code::Usage, format!("--since {since} is not before --until {until}"))
                .hint("dead letters are selected from --since (included) to --until (excluded)"));
        }
        Ok(Self { topics: filter.topic.clone(), class: filter.class.clone(), since, until, places: BTreeSet::new() })
    }

    fn of_places(places: &[Place]) -> Self {
        Self { places: places.iter().map(Place::to_string).collect(), ..Self::default() }
    }

    fn has(&self, letter: &DeadLetter) -> bool {
        let failed = letter.failed();
        (self.places.is_empty() || self.places.contains(&letter.name()))
            && (self.topics.is_empty()
                || letter.original_topic().is_some_and(|topic| self.topics.iter().any(|t| t == topic)))
            && self.class.as_deref().is_none_or(|class| letter.class() == Some(class))
            && self.since.is_none_or(|since| failed.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| failed.is_some_and(|at| at < until))
    }
}

fn ago_from_now(ago: std::time::Duration) -> Timestamp {
    let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
    crate::clock::wall().checked_sub(ago).unwrap_or(Timestamp::MIN)
}

//! Dead letters back to the topics they were meant for, each once. Runs as a job, which continues behind what was read.

mod job;
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::letter::DeadLetter;
use super::{Chosen, Filter, blocking, ranges, ranges_of, states_of};
use crate::broker::admin::Admin;
use crate::broker::reader::{self, Range};
use crate::clock::monotonic;
use crate::config::Config;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::operations::jobs::Recording;
use crate::operations::progress::{Progress, Step};
use crate::operations::{Author, Place, Result, jobs as others};
use crate::outbox::dead_letters::redrive::{self as letters, Counts, Letter, NewEvent, Outcome, Recorded};
use crate::outbox::jobs::{self, Handle, Kind};
use crate::relay::routing::Routing;
pub use job::Paused;
pub(in crate::operations) use job::paused;
pub use report::{Line, Report};
use report::{expect_found, expired, overtaken};

/// Dead letters of one transaction, and bytes of their values. Guesses: some 50 ms, and little memory.
const PORTION: usize = 200;
const PORTION_BYTES: usize = 4 * 1024 * 1024;
/// Portions in a second when there is a rate.
const PORTIONS_PER_SECOND: u32 = 5;
/// Records that are read ahead.
const READ_AHEAD: usize = 64;
/// Which dead letters, and how fast.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// When there are any, the filter does not count.
    pub places: Vec<Place>,
    pub filter: Filter,
    /// Events per second.
    pub rate: Option<u32>,
}

/// What is known of a topic that events are to go back to.
#[derive(Debug, Default)]
struct Target {
    /// Why no event may go there.
    refused: Option<String>,
    max_age_ms: Option<i64>,
}

/// Dead letters that are to go back, as they were when this was made.
pub struct Redrive<'a> {
    settings: &'a Config,
    pool: &'a Pool,
    places: Vec<Place>,
    admin: Admin,
    routing: Routing,
    chosen: Chosen,
    /// Fixed at the begin: what fails again while it runs is not sent back a second time.
    ranges: Vec<Range>,
    /// Topics that were asked about.
    topics: HashMap<String, Target>,
    rate: Option<u32>,
    /// The job that this continues.
    resumes: Option<Resumed>,
}

/// A job that is resumed.
#[derive(Debug, Clone, Copy)]
struct Resumed {
    job: Uuid,
    counts: Counts,
    take_over: bool,
}

/// What a pass needs to send dead letters back.
struct Sending<'a> {
    author: &'a Author,
    recording: &'a Recording<'a>,
    job: Option<Handle>,
    stop: &'a CancellationToken,
    /// Counted from the start of the job, as `counts`.
    total: u64,
    counts: Counts,
    /// What has not been read.
    left: Vec<Range>,
}

impl Sending<'_> {
    fn report(&self) {
        self.recording.report(Step::new(letters::SENT_BACK, self.counts.sent(), self.total));
    }

    /// Sends one batch back.
    async fn send(&mut self, pool: &Pool, batch: &[(Letter, Result<NewEvent, String>)]) -> Result<Vec<Outcome>> {
        let mut left = self.left.clone();
        job::pass(&mut left, batch.iter().map(|(letter, _)| letter));
        let recorded =
            self.job.map(|job| Recorded { job, before: self.counts, total: self.total, cursor: job::cursor(&left) });
        let Some(outcomes) = letters::redrive(pool, batch, self.author, recorded.as_ref()).await? else {
            return Err(self.recording.lost().into());
        };
        (self.left, self.counts) = (left, self.counts.with(&outcomes));
        self.report();
        Ok(outcomes)
    }

    fn stopped(&self) -> Error {
        match self.job {
            None => stopped(),
            Some(job) => Error::new(
                Code::PartlyDone,
                format!("job {} stopped after {} of {} dead letters", job.id, self.counts.sent(), self.total),
            )
            .hint(format!("resume with: outbox-relay jobs resume {}", job.id)),
        }
    }
}

/// What would become of each dead letter.
#[derive(Debug)]
pub struct Plan {
    lines: Vec<Line>,
}

impl Plan {
    /// Dead letters that would go back.
    pub fn to_do(&self) -> usize {
        self.lines.iter().filter(|line| line.goes_back()).count()
    }

    /// Of these: events that are older than their topic keeps records.
    pub fn expired(&self) -> usize {
        expired(&self.lines)
    }

    /// Those that would go back, by their topic.
    pub fn by_topic(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for line in self.lines.iter().filter(|line| line.goes_back()) {
            *counts.entry(line.original_topic.clone().unwrap_or_default()).or_default() += 1;
        }
        counts
    }

    pub fn report(self, dry_run: bool) -> Report {
        Report::new(self.lines, 0, dry_run)
    }
}

impl<'a> Redrive<'a> {
    /// Looks where the dead letters are.
    pub async fn new(settings: &'a Config, pool: &'a Pool, request: &Request) -> Result<Self> {
        let (chosen, ranges) = if request.places.is_empty() {
            (Chosen::new(&request.filter)?, ranges(settings, pool, &request.filter).await?)
        } else {
            (Chosen::of_places(&request.places), ranges_of(&settings.kafka, &request.places).await?)
        };
        Ok(Self {
            settings,
            pool,
            places: request.places.clone(),
            admin: Admin::new(&settings.kafka)?,
            routing: Routing::new(&settings.routing)?,
            chosen,
            ranges,
            topics: HashMap::new(),
            rate: request.rate,
            resumes: None,
        })
    }

    /// The same for what is left of a job.
    pub async fn rest_of(settings: &'a Config, pool: &'a Pool, paused: Paused) -> Result<Self> {
        let topics: BTreeSet<String> = paused.ranges.iter().map(|range| range.topic.clone()).collect();
        let (kafka, topics) = (settings.kafka.clone(), topics.into_iter().collect::<Vec<_>>());
        let there = blocking(move || reader::ranges(&kafka, &topics)).await?;
        Ok(Self {
            settings,
            pool,
            places: Vec::new(),
            admin: Admin::new(&settings.kafka)?,
            routing: Routing::new(&settings.routing)?,
            ranges: job::still_there(&paused.ranges, &there),
            chosen: paused.chosen,
            topics: HashMap::new(),
            rate: paused.rate,
            resumes: Some(Resumed { job: paused.job, counts: paused.counts, take_over: paused.take_over }),
        })
    }

    /// Reads the dead letters. Changes nothing.
    pub async fn plan(&mut self) -> Result<Plan> {
        let lines = self.pass(None).await?;
        if self.resumes.is_none() {
            expect_found(&self.places, &lines)?;
        }
        Ok(Plan { lines })
    }

    /// Sends them back. A stop ends it between two transactions; what went back stays.
    pub async fn run(
        &mut self,
        plan: &Plan,
        author: &Author,
        progress: &dyn Progress,
        stop: &CancellationToken,
    ) -> Result<Report> {
        let job = self.begin(plan, author, progress).await?;
        let recording = Recording::new(self.pool, job, author, progress, stop).in_portions();
        let counts = self.resumes.map(|resumed| resumed.counts).unwrap_or_default();
        let total = counts.sent() + plan.to_do() as u64;
        let sending = Sending { author, recording: &recording, job, stop, total, counts, left: self.ranges.clone() };
        sending.report();
        match recording.run(Box::pin(self.pass(Some(sending)))).await {
            Ok(lines) => {
                let overtaken = overtaken(&plan.lines, &lines);
                let report =
                    Report { job: recording.id().map(|id| id.to_string()), ..Report::new(lines, overtaken, false) };
                recording.end(report.verdict().err().as_ref(), None).await;
                Ok(report)
            }
            Err(failure) => {
                let error = Error::from(failure);
                recording.end(Some(&error), None).await;
                Err(error.into())
            }
        }
    }

    /// Begins or resumes the job. `None`: nothing is recorded.
    async fn begin(&self, plan: &Plan, author: &Author, progress: &dyn Progress) -> Result<Option<Handle>> {
        if let Some(Resumed { job, take_over, .. }) = self.resumes {
            let taken = jobs::resume(self.pool, jobs::Take { id: job, author, take_over }).await?;
            return Ok(Some(taken.ok_or_else(|| others::busy(job))?));
        }
        if !Recording::is_possible(self.pool, progress).await? {
            return Ok(None);
        }
        let part = jobs::Part { what: letters::SENT_BACK.to_owned(), done: 0, total: plan.to_do() as u64 };
        let new = jobs::New {
            id: Uuid::now_v7(),
            kind: Kind::Redrive,
            arguments: job::arguments(&self.chosen, self.rate),
            parts: vec![part],
            cursor: Some(job::cursor(&self.ranges)),
        };
        Ok(Some(jobs::begin(self.pool, &new, author).await?))
    }

    /// Reads the dead letters and sends them back, or without `sending` says what would become of each.
    async fn pass(&mut self, mut sending: Option<Sending<'_>>) -> Result<Vec<Line>> {
        let (mut letters, reading) = self.read();
        let portion = self.rate.map_or(PORTION, |rate| ((rate / PORTIONS_PER_SECOND) as usize).clamp(1, PORTION));
        let (mut lines, mut due, mut open) = (Vec::new(), monotonic(), true);
        while open {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < portion && bytes < PORTION_BYTES {
                let Some(letter) = letters.recv().await else {
                    open = false;
                    break;
                };
                bytes += letter.record.value.as_ref().map_or(0, Vec::len);
                let event = match letter.to_event() {
                    Ok(event) => self.accepted(event).await,
                    refused => refused,
                };
                batch.push((letter.to_letter(), event));
                lines.push(Line { expired: self.is_expired(&letter), ..Line::new(&letter) });
            }
            if batch.is_empty() {
                break;
            }
            let outcomes = match &mut sending {
                None => self.preview(&batch).await?,
                Some(sending) => {
                    self.pause(&mut due, sending).await?;
                    let outcomes = sending.send(self.pool, &batch).await?;
                    if let Some(rate) = self.rate {
                        let sent = outcomes
                            .iter()
                            .filter(|outcome| matches!(outcome, Outcome::Reopened(_) | Outcome::Appended(_)));
                        due += Duration::from_secs_f64(sent.count() as f64 / f64::from(rate));
                    }
                    outcomes
                }
            };
            let first = lines.len() - outcomes.len();
            lines[first..].iter_mut().zip(outcomes).for_each(|(line, outcome)| line.became(outcome));
        }
        drop(letters);
        reading.await.map_err(|join| Error::new(Code::Unexpected, "reading Kafka panicked").caused_by(join))??;
        Ok(lines)
    }

    async fn pause(&self, due: &mut Duration, sending: &Sending<'_>) -> Result<()> {
        *due = (*due).max(monotonic().saturating_sub(Duration::from_secs(1)));
        tokio::select! {
            biased;
            () = sending.stop.cancelled() => Err(sending.stopped().into()),
            () = tokio::time::sleep(due.saturating_sub(monotonic())) => Ok(()),
        }
    }

    /// Reads ahead, a few records: memory does not grow with the topics.
    fn read(&self) -> (mpsc::Receiver<DeadLetter>, tokio::task::JoinHandle<Result<u64, Error>>) {
        let (to, from) = mpsc::channel(READ_AHEAD);
        let (kafka, ranges, chosen) = (self.settings.kafka.clone(), self.ranges.clone(), self.chosen.clone());
        let reading = tokio::task::spawn_blocking(move || {
            reader::read(&kafka, &ranges, |found| {
                let letter = DeadLetter::read(found);
                !chosen.has(&letter) || to.blocking_send(letter).is_ok()
            })
        });
        (from, reading)
    }

    async fn preview(&self, batch: &[(Letter, Result<NewEvent, String>)]) -> Result<Vec<Outcome>> {
        let states = states_of(self.pool, batch.iter().map(|(letter, _)| letter)).await?;
        Ok(states
            .into_iter()
            .zip(batch)
            .map(|(state, (letter, event))| letters::preview(state, letter, event))
            .collect())
    }

    /// The event, unless its topic would refuse it: as a row it would only fail once more.
    async fn accepted(&mut self, event: NewEvent) -> Result<NewEvent, String> {
        if !self.topics.contains_key(&event.topic) {
            let refused = |why| Target { refused: Some(why), max_age_ms: None };
            let target = match self.routing.allows(&event.topic) {
                Err(why) => refused(why.to_string()),
                Ok(()) => match self.admin.topic(&event.topic).await {
                    Ok(Some(facts)) => Target { refused: None, max_age_ms: facts.max_age_ms() },
                    Ok(None) => refused(format!("the topic {} does not exist", event.topic)),
                    Err(error) => {
                        refused(format!("Kafka does not say whether {} exists: {}", event.topic, error.chain()))
                    }
                },
            };
            self.topics.insert(event.topic.clone(), target);
        }
        match self.topics.get(&event.topic).and_then(|target| target.refused.clone()) {
            None => Ok(event),
            Some(why) => Err(why),
        }
    }

    /// Whether the topic would not keep the event: its record gets the time of the dead letter, which is that of the
    /// event.
    fn is_expired(&self, letter: &DeadLetter) -> bool {
        let target = letter.original_topic().and_then(|topic| self.topics.get(topic));
        let (Some(max_age_ms), Some(created_ms)) =
            (target.and_then(|target| target.max_age_ms), letter.record.timestamp_ms)
        else {
            return false;
        };
        Timestamp::now().as_millisecond().saturating_sub(created_ms) > max_age_ms
    }
}

/// The work was stopped in the middle.
pub fn stopped() -> Error {
    Error::new(Code::PartlyDone, "stopped")
        .hint("run the same command to continue; dead letters already sent back are skipped")
}

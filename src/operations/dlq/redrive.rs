//! Dead letters back to the topics they were meant for, each once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::letter::DeadLetter;
use super::{Chosen, Filter, missing_names, none_missing, ranges, ranges_of, states_of};
use crate::broker::admin::Admin;
use crate::broker::reader::{self, Range};
use crate::clock::monotonic;
use crate::config::Config;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::operations::progress::{Progress, Step};
use crate::operations::{Author, Place, Result};
use crate::outbox::dead_letters::redrive::{self as letters, Letter, NewEvent, Outcome};
use crate::relay::routing::Routing;

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
    decided: usize,
    pub refused: usize,
    /// Of those that go back: too old for their topic.
    pub expired: usize,
    pub letters: Vec<Line>,
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
}

/// What a pass needs to send dead letters back.
struct Sending<'a> {
    author: &'a Author,
    progress: &'a dyn Progress,
    stop: &'a CancellationToken,
    total: u64,
}

impl Sending<'_> {
    fn at(&self, done: u64) {
        self.progress.report(Step::new("sent back", done, self.total));
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
        Report::new(self.lines, &[], dry_run)
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
        })
    }

    /// Reads the dead letters. Changes nothing.
    pub async fn plan(&mut self) -> Result<Plan> {
        let lines = self.pass(None).await?;
        expect_found(&self.places, &lines)?;
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
        let sending = Sending { author, progress, stop, total: plan.to_do() as u64 };
        sending.at(0);
        let lines = self.pass(Some(sending)).await?;
        let overtaken = overtaken(&plan.lines, &lines);
        Ok(Report::new(lines, &overtaken, false))
    }

    /// Reads the dead letters and sends them back, or without `sending` says what would become of each.
    async fn pass(&mut self, sending: Option<Sending<'_>>) -> Result<Vec<Line>> {
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
            let outcomes = match &sending {
                None => self.preview(&batch).await?,
                Some(sending) => {
                    self.pause(&mut due, sending.stop).await?;
                    let outcomes = letters::redrive(self.pool, &batch, sending.author).await?;
                    if let Some(rate) = self.rate {
                        let sent = outcomes
                            .iter()
                            .filter(|outcome| matches!(outcome, Outcome::Reopened(_) | Outcome::Appended(_)));
                        due += Duration::from_secs_f64(sent.count() as f64 / f64::from(rate));
                    }
                    sending.at((lines.len() - batch.len()) as u64);
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

    async fn pause(&self, due: &mut Duration, stop: &CancellationToken) -> Result<()> {
        *due = (*due).max(monotonic().saturating_sub(Duration::from_secs(1)));
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(stopped().into()),
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

impl Line {
    fn new(letter: &DeadLetter) -> Self {
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

    fn goes_back(&self) -> bool {
        matches!(self.outcome, "reopened" | "appended")
    }

    fn became(&mut self, outcome: Outcome) {
        (self.outcome, self.row, self.why) = match outcome {
            Outcome::Reopened(row) => ("reopened", Some(row), None),
            Outcome::Appended(row) => ("appended", (row > 0).then_some(row), None),
            Outcome::LeftAlone(why) => ("left-alone", None, Some(why.to_owned())),
            Outcome::Refused(why) => ("refused", None, Some(why)),
        };
    }
}

fn expect_found(places: &[Place], lines: &[Line]) -> Result<(), Error> {
    if places.is_empty() && lines.is_empty() {
        return Err(Error::new(Code::NotFound, "no dead letter matches").hint("to list them run: outbox-relay dlq ls"));
    }
    none_missing(&missing_names(places, lines.iter().map(Line::name)))
}

/// Lines that were to go back and were left alone: whether each of them went back all the same.
fn overtaken(planned: &[Line], done: &[Line]) -> Vec<bool> {
    let wanted: HashSet<String> = planned.iter().filter(|line| line.goes_back()).map(Line::name).collect();
    let left = done.iter().filter(|line| line.outcome == "left-alone" && wanted.contains(&line.name()));
    left.map(|line| line.why.as_deref() == Some(letters::WENT_BACK)).collect()
}

fn expired(lines: &[Line]) -> usize {
    lines.iter().filter(|line| line.goes_back() && line.expired).count()
}

impl Report {
    fn new(letters: Vec<Line>, overtaken: &[bool], dry_run: bool) -> Self {
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

/// The work was stopped in the middle.
pub fn stopped() -> Error {
    Error::new(Code::PartlyDone, "stopped")
        .hint("run the same command to continue; dead letters already sent back are skipped")
}

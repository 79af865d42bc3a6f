//! `dlq redrive`: dead letters back to the topics they were meant for, each once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::letter::DeadLetter;
use super::{Chosen, expect_all_names, ranges, ranges_of, states_of};
use crate::broker::admin::Admin;
use crate::broker::reader::{self, Range};
use crate::cli::{DlqRedriveArgs, Place};
use crate::clock::monotonic;
use crate::commands::confirm::{can_ask, confirmed};
use crate::commands::signals::Signals;
use crate::commands::{Context, Result, author};
use crate::config::Config;
use crate::db::Pool;
use crate::error::{Code, Error};
use crate::outbox::audit::Author;
use crate::outbox::dead_letters::redrive::{self as letters, Letter, NewEvent, Outcome};
use crate::output::{self, Align, Cell, Progress, Table, Tone};
use crate::relay::routing::Routing;

/// Dead letters of one transaction, and bytes of their values. Guesses: some 50 ms, and little memory.
const PORTION: usize = 200;
const PORTION_BYTES: usize = 4 * 1024 * 1024;
/// Portions in a second when there is a rate.
const PORTIONS_PER_SECOND: u32 = 5;
/// Records that are read ahead.
const READ_AHEAD: usize = 64;
/// Refusals that are told one by one.
const REFUSALS_SHOWN: usize = 20;

#[derive(Debug, Clone, Serialize)]
struct Line {
    topic: String,
    partition: i32,
    offset: i64,
    original_topic: Option<String>,
    outcome: &'static str,
    /// The row that is published, where it is known.
    row: Option<i64>,
    why: Option<String>,
    /// Its topic deletes or refuses records of that age, so the event may be gone at once.
    expired: bool,
}

#[derive(Debug, Serialize)]
struct Summary<'a> {
    dry_run: bool,
    reopened: usize,
    appended: usize,
    left_alone: usize,
    /// Of those left alone: they would have gone back a moment before, and somebody else was faster.
    overtaken: usize,
    refused: usize,
    /// Of those that go back: too old for their topic.
    expired: usize,
    letters: &'a [Line],
}

pub(super) async fn run(context: &Context, settings: &Config, pool: &Pool, args: &DlqRedriveArgs) -> Result<()> {
    if !args.consent.dry_run {
        can_ask(args.consent.yes)?;
    }
    let (chosen, ranges) = if args.places.is_empty() {
        (Chosen::new(&args.filter)?, ranges(settings, pool, &args.filter).await?)
    } else {
        (Chosen::of_places(&args.places), ranges_of(&settings.kafka, &args.places).await?)
    };
    let mut redrive = Redrive {
        settings,
        pool,
        admin: Admin::new(&settings.kafka)?,
        routing: Routing::new(&settings.routing)?,
        chosen,
        ranges,
        topics: HashMap::new(),
        author: author(args.consent.reason.clone()),
        rate: args.rate,
    };
    let (signals, stop) = (Signals::listen(), CancellationToken::new());
    let work = Box::pin(redrive.run(context, args, &stop));
    signals.run(work, &stop).await.unwrap_or_else(|| Err(stopped().into()))
}

/// What is known of a topic that events are to go back to.
#[derive(Debug, Default)]
struct Target {
    /// Why no event may go there.
    refused: Option<String>,
    max_age_ms: Option<i64>,
}

struct Redrive<'a> {
    settings: &'a Config,
    pool: &'a Pool,
    admin: Admin,
    routing: Routing,
    chosen: Chosen,
    /// Fixed at the begin: what fails again while it runs is not sent back a second time.
    ranges: Vec<Range>,
    /// Topics that were asked about.
    topics: HashMap<String, Target>,
    author: Author,
    rate: Option<u32>,
}

impl Redrive<'_> {
    async fn run(&mut self, context: &Context, args: &DlqRedriveArgs, stop: &CancellationToken) -> Result<()> {
        let planned = self.pass(None, stop).await?;
        expect_found(&args.places, &planned)?;
        let to_do = planned.iter().filter(|line| goes_back(line)).count();
        if args.consent.dry_run || to_do == 0 {
            note_expired(&planned);
            return finish(context, &planned, &planned, args.consent.dry_run);
        }
        note_expired(&planned);
        for (topic, count) in by_topic(&planned) {
            output::note(&output::printable(&format!("{count:>10}  {topic}")));
        }
        if !confirmed(args.consent.yes, &format!("Send {to_do} dead letters back?"))? {
            return Ok(());
        }
        let mut progress = Progress::new("sent back", 0, to_do as u64);
        let done = self.pass(Some(&mut progress), stop).await;
        progress.clear();
        finish(context, &planned, &done?, false)
    }

    /// Reads the dead letters and sends them back, or without `progress` says what would become of each.
    async fn pass(&mut self, mut progress: Option<&mut Progress>, stop: &CancellationToken) -> Result<Vec<Line>> {
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
            let outcomes = match &mut progress {
                None => self.preview(&batch).await?,
                Some(progress) => {
                    self.pause(&mut due, stop).await?;
                    let outcomes = letters::redrive(self.pool, &batch, &self.author).await?;
                    if let Some(rate) = self.rate {
                        let sent = outcomes
                            .iter()
                            .filter(|outcome| matches!(outcome, Outcome::Reopened(_) | Outcome::Appended(_)));
                        due += Duration::from_secs_f64(sent.count() as f64 / f64::from(rate));
                    }
                    progress.at((lines.len() - batch.len()) as u64);
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

    fn place(&self) -> (&str, i32, i64) {
        (&self.topic, self.partition, self.offset)
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

fn goes_back(line: &Line) -> bool {
    matches!(line.outcome, "reopened" | "appended")
}

fn expect_found(places: &[Place], lines: &[Line]) -> Result<(), Error> {
    if places.is_empty() && lines.is_empty() {
        return Err(
            Error::new(Code::NotFound, "no dead letter matches").hint("outbox-relay dlq ls lists what is there")
        );
    }
    expect_all_names(places, lines.iter().map(|line| format!("{}/{}/{}", line.topic, line.partition, line.offset)))
}

/// Says what Kafka would not keep.
fn note_expired(lines: &[Line]) {
    let events = lines.iter().filter(|line| goes_back(line) && line.expired).count();
    if events > 0 {
        output::note(&format!(
            "{events} of these events are older than their topic keeps records (retention.ms): Kafka deletes or refuses them at once"
        ));
    }
}

fn by_topic(lines: &[Line]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines.iter().filter(|line| goes_back(line)) {
        *counts.entry(line.original_topic.clone().unwrap_or_default()).or_default() += 1;
    }
    counts
}

/// Lines that were to go back and were left alone.
fn overtaken(planned: &[Line], done: &[Line]) -> usize {
    let wanted: HashSet<_> = planned.iter().filter(|line| goes_back(line)).map(Line::place).collect();
    done.iter().filter(|line| line.outcome == "left-alone" && wanted.contains(&line.place())).count()
}

fn finish(context: &Context, planned: &[Line], lines: &[Line], dry_run: bool) -> Result<()> {
    let count = |outcome: &str| lines.iter().filter(|line| line.outcome == outcome).count();
    let summary = Summary {
        dry_run,
        reopened: count("reopened"),
        appended: count("appended"),
        left_alone: count("left-alone"),
        overtaken: overtaken(planned, lines),
        refused: count("refused"),
        expired: lines.iter().filter(|line| goes_back(line) && line.expired).count(),
        letters: lines,
    };
    output::data(context.format(), &summary, lines, || table(lines))?;
    let refused: Vec<&Line> = lines.iter().filter(|line| line.outcome == "refused").collect();
    for line in refused.iter().take(REFUSALS_SHOWN) {
        let why = line.why.as_deref().unwrap_or_default();
        output::note(&output::printable(&format!("{}/{}/{}: {why}", line.topic, line.partition, line.offset)));
    }
    let code = if summary.reopened + summary.appended > 0 { Code::PartlyDone } else { Code::CheckNotMet };
    if refused.is_empty() && summary.overtaken > 0 {
        let message = format!("{} dead letters had gone back or were given up when their turn came", summary.overtaken);
        return Err(Error::new(code, message)
            .hint("another command was faster; outbox-relay dlq ls says what became of them")
            .into());
    }
    if refused.is_empty() || dry_run {
        return Ok(());
    }
    Err(Error::new(code, format!("{} dead letters cannot go back as they are", refused.len()))
        .hint("the reasons stand above, and with -o ndjson for each; the others went back")
        .into())
}

/// Counts by topic and outcome; JSON has every dead letter.
fn table(lines: &[Line]) -> String {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in lines {
        *counts.entry((line.original_topic.as_deref().unwrap_or("-"), line.outcome)).or_default() += 1;
    }
    let mut table = Table::new(&[("TOPIC", Align::Left), ("OUTCOME", Align::Left), ("DEAD LETTERS", Align::Right)]);
    for ((topic, outcome), count) in counts {
        let tone = match outcome {
            "refused" => Tone::Bad,
            "left-alone" => Tone::Faint,
            _ => Tone::Good,
        };
        table.row([Cell::new(topic), Cell::new(outcome).tone(tone), Cell::new(count)]);
    }
    table.render()
}

fn stopped() -> Error {
    Error::new(Code::PartlyDone, "stopped").hint("the same command goes on: what went back is left alone")
}

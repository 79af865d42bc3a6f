//! Where a part of the process reports what it waits for.
//!
//! Reporters repeat everything they know; the board remembers since when. It logs one line when a wait begins and one
//! when it ends, and sets the gauges, the notes and the check of the part. Invariant: all four are derived from the
//! same list.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::{Situation, Wait, time};
use crate::clock;
use crate::error::Code;
use crate::health::{Check, Notes};
use crate::metrics::{Metrics, WaitLabels};

/// Who reports. Each replaces its own list alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The loop that does the work.
    Work,
    /// Checks of the cluster or the database from outside the part.
    Watch,
}

/// The waits of one part of the process. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Board {
    state: Arc<Mutex<State>>,
    part: &'static str,
    metrics: Metrics,
    /// The attempt of the part whose gauges these are.
    tenure: u64,
}

/// What it is and where. Two sources that report the same have found one thing.
type Key = (Situation, Option<String>, Option<i32>, Option<i16>);

#[derive(Debug)]
struct Known {
    wait: Wait,
    /// Who knows of it.
    by: BTreeSet<Source>,
    began: Duration,
    logged: bool,
}

#[derive(Debug, Default)]
struct State {
    known: BTreeMap<Key, Known>,
    check: Option<Check>,
    notes: Option<Notes>,
    /// Why the part does not run, or not yet.
    not_running: Option<String>,
    /// Nobody can tell at present what is waited for.
    unmeasured: bool,
    /// What the gauges show: the number of waits, and since when the first is.
    shown: BTreeMap<Situation, (i64, Timestamp)>,
}

impl Board {
    /// Of the part `consumer` or `relay`. Its gauges appear at once, with zeros. They are those of the attempt that
    /// runs now, see [`Metrics::begin`].
    pub fn new(part: &'static str, metrics: Metrics) -> Self {
        let tenure = metrics.tenure(part);
        let board = Self { state: Arc::default(), part, metrics, tenure };
        board.metrics.has_waits(part, board.situations().collect());
        board.show_zeros();
        board
    }

    fn situations(&self) -> impl Iterator<Item = WaitLabels> {
        let part = self.part;
        let own = Situation::ALL.iter().filter(move |situation| situation.part() == part);
        own.map(move |situation| WaitLabels { part, situation: situation.code() })
    }

    fn show_zeros(&self) {
        for labels in self.situations() {
            self.metrics.waits.get_or_create(&labels).set(0);
        }
    }

    /// Nobody can tell what the part waits for, until the next report: no gauge and no note says anything. What is
    /// known is remembered, so that it does not begin again.
    pub fn unmeasured(&self) {
        let mut state = self.lock();
        state.unmeasured = true;
        self.show(&mut state, clock::monotonic());
    }

    /// From now on this check and these notes say what the board knows.
    pub fn report_to(&self, check: Option<Check>, notes: Notes) {
        let mut state = self.lock();
        check.iter().for_each(Check::leave_log_to_reporter);
        (state.check, state.notes) = (check, Some(notes));
        self.show(&mut state, clock::monotonic());
    }

    /// The part does not run: nothing else is known of it. Returns whether that is news.
    pub fn not_running(&self, reason: &str) -> bool {
        let mut state = self.lock();
        let before = state.not_running.replace(reason.to_owned());
        state.known.clear();
        self.show(&mut state, clock::monotonic());
        before.as_deref() != Some(reason)
    }

    /// The part runs, and this is all that this source knows it to wait for.
    pub fn report(&self, source: Source, waits: Vec<Wait>) {
        self.report_at(source, waits, clock::monotonic());
    }

    fn report_at(&self, source: Source, waits: Vec<Wait>, now: Duration) {
        let mut state = self.lock();
        if source == Source::Work {
            state.not_running = None;
        }
        if std::mem::take(&mut state.unmeasured) && self.is_current() {
            self.show_zeros();
        }
        let mut found: BTreeMap<Key, Wait> = BTreeMap::new();
        for wait in waits {
            let key = (wait.situation, wait.topic.clone(), wait.partition, wait.shard);
            match found.get_mut(&key) {
                None => drop(found.insert(key, wait)),
                Some(twice) if twice.text().contains(wait.text()) => {}
                Some(twice) => twice.detail = Some(format!("{}; {}", twice.text(), wait.text())),
            }
        }
        state.known.retain(|key, known| {
            if found.contains_key(key) || !known.by.remove(&source) || !known.by.is_empty() {
                return true;
            }
            self.log_end(known, now);
            false
        });
        for (key, wait) in found {
            match state.known.entry(key) {
                Entry::Vacant(place) => {
                    let wait = Wait { since: wait.since.or_else(|| Some(clock::wall())), ..wait };
                    place.insert(Known { wait, by: BTreeSet::from([source]), began: now, logged: false });
                }
                Entry::Occupied(mut known) => {
                    let known = known.get_mut();
                    known.by.insert(source);
                    // The detail may be another one now; the words of the loop that does the work go first.
                    if !known.by.contains(&Source::Work) || source == Source::Work {
                        known.wait = Wait { since: wait.since.or(known.wait.since), ..wait };
                    }
                }
            }
        }
        for known in state.known.values_mut().filter(|known| !known.logged) {
            if now.saturating_sub(known.began) >= known.wait.situation.shown_after() {
                known.logged = true;
                self.log_begin(&known.wait);
            }
        }
        self.show(&mut state, now);
    }

    /// Why the part is not ready. `None` when it is.
    pub fn reason(&self) -> Option<String> {
        self.lock().reason(clock::monotonic())
    }

    fn log_begin(&self, wait: &Wait) {
        let (part, situation) = (self.part, wait.situation.code());
        match code(wait.situation) {
            None => tracing::warn!(part, situation, "the {part} is waiting: {}", wait.line()),
            Some(code) => tracing::error!(
                part,
                situation,
                code = code.as_str(),
                help = help(code),
                "the {part} is waiting: {}",
                wait.line()
            ),
        }
    }

    fn log_end(&self, known: &Known, now: Duration) {
        if known.logged {
            let (part, situation) = (self.part, known.wait.situation.code());
            let seconds = now.saturating_sub(known.began).as_secs();
            tracing::info!(part, situation, seconds, "the {part} is no longer waiting: {}", known.wait.line());
        }
    }

    /// Brings check, notes and gauges up to date.
    fn show(&self, state: &mut State, now: Duration) {
        if let Some(check) = &state.check {
            match state.reason(now) {
                None => check.ok(),
                Some(reason) => check.failing(reason),
            }
        }
        let mut shown: BTreeMap<Situation, (i64, Timestamp)> = BTreeMap::new();
        for known in state.known.values().filter(|known| known.is_shown(now)) {
            let since = known.wait.since.unwrap_or(Timestamp::UNIX_EPOCH);
            let entry = shown.entry(known.wait.situation).or_insert((0, since));
            *entry = (entry.0 + 1, entry.1.min(since));
        }
        if state.unmeasured {
            state.notes.iter().for_each(|notes| notes.set(Vec::new()));
            if self.is_current() {
                for labels in self.situations() {
                    self.metrics.waits.remove(&labels);
                    self.metrics.waits_since.remove(&labels);
                }
            }
            state.shown.clear();
            return;
        }
        if let Some(notes) = &state.notes {
            let noted =
                |known: &&Known| known.is_shown(now) && !known.is_unready(now) && !known.wait.situation.has_note();
            let lines = state.known.values().filter(noted);
            notes.set(lines.map(|known| format!("the {} waits: {}", self.part, known.said())).collect());
        }
        if state.shown == shown || !self.is_current() {
            return;
        }
        let labels = |situation: Situation| WaitLabels { part: self.part, situation: situation.code() };
        for situation in state.shown.keys().filter(|situation| !shown.contains_key(*situation)) {
            self.metrics.waits.get_or_create(&labels(*situation)).set(0);
            self.metrics.waits_since.remove(&labels(*situation));
        }
        for (situation, (count, since)) in &shown {
            self.metrics.waits.get_or_create(&labels(*situation)).set(*count);
            self.metrics.waits_since.get_or_create(&labels(*situation)).set(since.as_second());
        }
        state.shown = shown;
    }

    /// Whether no other attempt has taken the place of this one.
    fn is_current(&self) -> bool {
        self.metrics.tenure(self.part) == self.tenure
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn is_shown(&self, now: Duration) -> bool {
        now.saturating_sub(self.began) >= self.wait.situation.shown_after()
    }

    fn is_unready(&self, now: Duration) -> bool {
        self.wait.situation.unready_after().is_some_and(|after| now.saturating_sub(self.began) >= after)
    }

    fn said(&self) -> String {
        let (line, code) = (self.wait.line(), self.wait.situation.code());
        match self.wait.since {
            Some(since) => format!("{line} ({code} since {})", time(since)),
            None => format!("{line} ({code})"),
        }
    }
}

impl State {
    fn reason(&self, now: Duration) -> Option<String> {
        let late = self.known.values().filter(|known| known.is_unready(now)).map(Known::said);
        let reasons: Vec<String> = self.not_running.iter().cloned().chain(late).collect();
        if reasons.is_empty() { None } else { Some(reasons.join("; ")) }
    }
}

/// Of what waiting alone does not cure.
fn code(situation: Situation) -> Option<Code> {
    match situation {
        Situation::GroupRefused | Situation::KafkaRefused => Some(Code::KafkaUnreachable),
        Situation::ProjectionRefused => Some(Code::ProjectionInvalid),
        Situation::Stopped => Some(Code::ConsumerDataLoss),
        Situation::NotJoined
        | Situation::KafkaAway
        | Situation::PostgresAway
        | Situation::MissingTopic
        | Situation::NoLeader
        | Situation::Unmeasured
        | Situation::OpenTransaction
        | Situation::Locked
        | Situation::SlowFold
        | Situation::TakenElsewhere
        | Situation::Unassigned
        | Situation::Stalled
        | Situation::NoMember
        | Situation::Paused
        | Situation::Resharding
        | Situation::NoOwner
        | Situation::NoRelay
        | Situation::BoundTooHigh
        | Situation::RowSecurity
        | Situation::TopicUnavailable
        | Situation::PartitionUnavailable
        | Situation::ClockSkew => None,
    }
}

/// What an operator can do about a problem.
fn help(code: Code) -> &'static str {
    if code == Code::ConsumerDataLoss {
        "if the loss is accepted: outbox-relay consumer positions accept --topic NAME (--dry-run shows where it would \
         go on); the consumer notices within seconds"
    } else if code == Code::ProjectionInvalid {
        "correct the SQL, the table or the grants; it is tried again every 30 s at least, and an event is parked for it \
         only if others pass"
    } else {
        "check the credentials in [kafka], the ACLs of the group and its topics, and who else is a member of the group"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;

    const SECOND: Duration = Duration::from_secs(1);

    fn open() -> Wait {
        Wait::new(Situation::OpenTransaction).of_partition("orders", 3)
    }

    fn gauges(metrics: &Metrics) -> Vec<String> {
        let text = metrics.encode();
        let own =
            text.lines().filter(|line| line.starts_with("outbox_relay_waits") && line.contains("open-transaction"));
        own.map(str::to_owned).collect()
    }

    #[test]
    fn a_wait_is_shown_when_it_lasts_and_counts_against_readiness_when_it_lasts_long() {
        let (health, metrics) = (Health::default(), Metrics::new());
        let board = Board::new("consumer", metrics.clone());
        board.report_to(Some(health.check("consumer")), health.notes());
        let at = |seconds: u32| SECOND * (100 + seconds);
        let zero = r#"outbox_relay_waits{part="consumer",situation="open-transaction"} 0"#;
        board.report_at(Source::Work, vec![open()], at(0));
        assert!(!health.readiness().to_string().contains("open-transaction"), "{}", health.readiness());
        assert_eq!(gauges(&metrics), [zero]);
        board.report_at(Source::Work, vec![open()], at(6));
        let shown = health.readiness().to_string();
        assert!(shown.contains("[+]consumer ok\n[i]the consumer waits: orders/3: another producer's"), "{shown}");
        assert_eq!(gauges(&metrics).len(), 2, "{:?}", gauges(&metrics));
        board.report_at(Source::Work, vec![open()], at(31));
        let shown = health.readiness().to_string();
        assert!(shown.starts_with("[-]consumer failed: orders/3: another producer's"), "{shown}");
        assert!(shown.contains("(open-transaction since 20") && !shown.contains("[i]"), "{shown}");
        board.report_at(Source::Work, Vec::new(), at(32));
        assert_eq!(health.readiness().to_string(), "[+]consumer ok\n");
        assert_eq!(gauges(&metrics), [zero]);
        board.report_at(Source::Work, vec![open()], at(33));
        assert!(health.readiness().is_ok(), "another one");
    }

    #[test]
    fn each_source_replaces_its_own_list_alone() {
        let board = Board::new("consumer", Metrics::new());
        let missing = || Wait::new(Situation::MissingTopic).of_topic("ordres");
        board.report(Source::Watch, vec![missing()]);
        board.report(Source::Work, vec![Wait::new(Situation::NotJoined)]);
        let both = board.reason().expect("a reason");
        assert!(both.contains("not-joined") && both.contains("ordres: the topic does not exist"), "{both}");
        board.report(Source::Work, Vec::new());
        assert!(board.reason().is_some_and(|reason| !reason.contains("not-joined") && reason.contains("ordres")));
        board.report(Source::Watch, Vec::new());
        assert_eq!(board.reason(), None);
        let away = |text: &str| vec![Wait::new(Situation::KafkaAway).because(text)];
        board.report(Source::Watch, away("no answer"));
        board.report(Source::Work, away("no broker is connected"));
        board.report(Source::Watch, away("no answer"));
        let one = board.reason().expect("a reason");
        assert!(one.starts_with("no broker is connected (kafka-away since ") && !one.contains("no answer"), "{one}");
        board.report(Source::Work, Vec::new());
        assert!(board.reason().is_some(), "one of them still says so");
        board.report(Source::Watch, Vec::new());
        assert_eq!(board.reason(), None);
    }

    #[test]
    fn what_nobody_can_tell_is_no_zero() {
        let (health, metrics) = (Health::default(), Metrics::new());
        let board = Board::new("consumer", metrics.clone());
        board.report_to(Some(health.check("consumer")), health.notes());
        board.report_at(Source::Watch, vec![open()], SECOND * 100);
        board.report_at(Source::Watch, vec![open()], SECOND * 106);
        let before = gauges(&metrics);
        board.unmeasured();
        assert!(gauges(&metrics).is_empty(), "{:?}", gauges(&metrics));
        assert!(!health.readiness().to_string().contains("open-transaction"), "{}", health.readiness());
        board.report_at(Source::Watch, vec![open()], SECOND * 110);
        assert_eq!(gauges(&metrics), before, "it is the same one");
        assert!(health.readiness().to_string().contains("open-transaction"), "{}", health.readiness());
        board.unmeasured();
        board.report_at(Source::Watch, Vec::new(), SECOND * 112);
        assert_eq!(gauges(&metrics).len(), 1, "a zero that was measured");
    }

    #[test]
    fn a_part_that_does_not_run_shows_nothing_of_before() {
        let metrics = Metrics::new();
        let board = Board::new("consumer", metrics.clone());
        board.report_at(Source::Work, vec![open()], SECOND);
        board.report_at(Source::Work, vec![open()], SECOND * 60);
        assert_eq!(gauges(&metrics).len(), 2);
        assert!(board.not_running("the consumer has stopped") && !board.not_running("the consumer has stopped"));
        assert_eq!(board.reason().as_deref(), Some("the consumer has stopped"));
        assert_eq!(gauges(&metrics).len(), 1, "{:?}", gauges(&metrics));
    }
}

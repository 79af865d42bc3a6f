//! Whether this process is ready (named checks) and alive (heartbeats of its loops), and what else an operator should
//! see (notes).
//!
//! Components hold handles and report; nothing here queries anything. A check counts as failing until it has reported
//! `ok` once, so an instance is not ready while it starts. Invariants: a note changes neither readiness nor liveness.
//! Liveness depends on heartbeats alone: a database that is down must not make an orchestrator restart us.

mod check;
mod heartbeat;
mod notes;
mod report;
mod waits;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;
pub use check::Check;
use check::Standing;
pub use heartbeat::Heartbeat;
use heartbeat::Pulse;
pub use notes::Notes;
pub use report::Report;
pub use waits::{Wait, Waits};
use waits::{Waiting, WaitsGroup, too_long};

/// All checks and heartbeats of a process. Cheap to clone; clones share the same state.
#[derive(Debug, Clone, Default)]
pub struct Health {
    shared: Arc<Shared>,
    /// The component that everything registered here belongs to.
    part: u64,
}

#[derive(Debug, Default)]
struct Shared {
    entries: Mutex<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    next: u64,
    stopping: bool,
    checks: BTreeMap<u64, Named<Standing>>,
    /// What is being waited for now, by the group that reports it.
    waits: BTreeMap<u64, Named<BTreeMap<u64, Waiting>>>,
    notes: BTreeMap<u64, Named<Vec<String>>>,
    heartbeats: BTreeMap<u64, Named<Pulse>>,
    /// Components whose reports are ignored.
    abandoned: BTreeSet<u64>,
}

#[derive(Debug)]
struct Named<T> {
    name: Cow<'static, str>,
    part: u64,
    state: T,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        // Each change is one assignment, so a panic elsewhere leaves nothing half done.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn new_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn listens_to(&self, part: u64) -> bool {
        !self.abandoned.contains(&part)
    }
}

impl Health {
    fn named<T>(&self, name: Cow<'static, str>, state: T) -> Named<T> {
        Named { name, part: self.part, state }
    }

    /// A registry for one component of the process: it reports to the same state, and can be queried and ignored
    /// separately.
    #[must_use]
    pub fn part(&self) -> Self {
        let part = self.shared.lock().new_id();
        Self { shared: Arc::clone(&self.shared), part }
    }

    /// Whether a loop of this part has not beaten for most of the time in which it promised to: early enough to do
    /// something about it before the process counts as dead.
    pub fn is_silent(&self) -> bool {
        let now = clock::monotonic();
        let entries = self.shared.lock();
        let mut own = entries.heartbeats.values().filter(|beat| beat.part == self.part);
        own.any(|beat| beat.state.is_late(now))
    }

    /// Whether every check of this part is satisfied. One that has none yet may still be starting.
    pub fn is_working(&self) -> bool {
        let now = clock::monotonic();
        let entries = self.shared.lock();
        let mut own = entries.checks.values().filter(|check| check.part == self.part).peekable();
        own.peek().is_some() && own.all(|check| check.state.at(now).is_ok())
    }

    /// Removes everything of this component from the reports, and ignores what its threads report later.
    pub fn abandon(&self) {
        let (mut entries, part) = (self.shared.lock(), self.part);
        entries.checks.retain(|_, check| check.part != part);
        entries.waits.retain(|_, waits| waits.part != part);
        entries.notes.retain(|_, notes| notes.part != part);
        entries.heartbeats.retain(|_, beat| beat.part != part);
        entries.abandoned.insert(part);
    }

    /// Registers a readiness check. It fails with "starting" until its first report, and is gone with its handle.
    pub fn check(&self, name: impl Into<Cow<'static, str>>) -> Check {
        self.new_check(name.into(), None)
    }

    /// As [`Health::check`], for a reporter that promises to report regularly: a success counts for `lasts`. The reader
    /// of the report evaluates that, so a stuck thread cannot leave its last success in effect.
    pub fn fresh_check(&self, name: impl Into<Cow<'static, str>>, lasts: Duration) -> Check {
        self.new_check(name.into(), Some(lasts))
    }

    fn new_check(&self, name: Cow<'static, str>, lasts: Option<Duration>) -> Check {
        let mut entries = self.shared.lock();
        let id = entries.new_id();
        if entries.listens_to(self.part) {
            entries.checks.insert(id, self.named(name, Standing::starting(lasts)));
        }
        Check { id, shared: Arc::clone(&self.shared) }
    }

    /// Registers a group of workers that report what they wait for. The process is not ready while one of them has
    /// waited longer than it said it might.
    pub fn waits(&self, name: impl Into<Cow<'static, str>>) -> Waits {
        let mut entries = self.shared.lock();
        let id = entries.new_id();
        if entries.listens_to(self.part) {
            entries.waits.insert(id, self.named(name.into(), BTreeMap::new()));
        }
        Waits { group: Arc::new(WaitsGroup { id, shared: Arc::clone(&self.shared) }) }
    }

    /// Registers a place for lines that `/readyz?verbose` shows as information. Empty at first, and gone with its
    /// handle.
    pub fn notes(&self) -> Notes {
        let mut entries = self.shared.lock();
        let id = entries.new_id();
        if entries.listens_to(self.part) {
            entries.notes.insert(id, self.named(Cow::Borrowed(""), Vec::new()));
        }
        Notes { id, shared: Arc::clone(&self.shared) }
    }

    /// Registers a loop that promises to call [`Heartbeat::beat`] at least once per `limit`, whatever it waits for.
    /// The first beat is now; the promise ends with the handle.
    pub fn heartbeat(&self, name: impl Into<Cow<'static, str>>, limit: Duration) -> Heartbeat {
        let mut entries = self.shared.lock();
        let id = entries.new_id();
        if entries.listens_to(self.part) {
            entries.heartbeats.insert(id, self.named(name.into(), Pulse::new(limit)));
        }
        Heartbeat { id, shared: Arc::clone(&self.shared) }
    }

    /// The process is about to stop: not ready from now on, so that nobody sends it more, and still alive.
    pub fn stopping(&self) {
        self.shared.lock().stopping = true;
    }

    /// The checks, the waits and the notes, each in the order they were registered in.
    pub fn readiness(&self) -> Report {
        self.readiness_at(clock::monotonic())
    }

    fn readiness_at(&self, now: Duration) -> Report {
        let entries = self.shared.lock();
        let mut lines: Vec<_> =
            entries.checks.values().map(|check| (check.name.clone(), check.state.at(now))).collect();
        lines.extend(entries.waits.values().map(|group| (group.name.clone(), too_long(group.state.values(), now))));
        if entries.stopping {
            lines.push((Cow::Borrowed("shutdown"), Err("the process is stopping".to_owned())));
        }
        Report { lines, notes: entries.notes.values().flat_map(|notes| &notes.state).cloned().collect() }
    }

    /// The heartbeats, in the order they were registered in.
    pub fn liveness(&self) -> Report {
        self.liveness_at(clock::monotonic())
    }

    fn liveness_at(&self, now: Duration) -> Report {
        let entries = self.shared.lock();
        let lines = entries.heartbeats.values().map(|beat| (beat.name.clone(), beat.state.at(now))).collect();
        Report { lines, notes: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn a_process_is_not_ready_until_every_check_has_reported() {
        let health = Health::default();
        let (postgres, kafka) = (health.check("postgres"), health.check("kafka"));
        postgres.ok();
        assert!(!health.readiness().is_ok());
        kafka.ok();
        assert!(health.readiness().is_ok());
    }

    #[test]
    fn a_success_counts_for_as_long_as_its_check_says() {
        let health = Health::default();
        let postgres = health.fresh_check("postgres", LIMIT);
        postgres.ok();
        let now = clock::monotonic();
        assert!(health.readiness_at(now + LIMIT / 2).is_ok());
        assert_eq!(
            health.readiness_at(now + LIMIT * 2).to_string(),
            "[-]postgres failed: no success for 60 s\n",
            "nobody has said so since"
        );
        health.check("schema").ok();
        assert!(!health.readiness_at(now + LIMIT * 2).to_string().contains("[-]schema"), "that one stays as it is");
    }

    #[test]
    fn a_wait_that_lasts_too_long_makes_the_process_unready_until_it_ends() {
        let health = Health::default();
        let lanes = health.waits("lanes");
        let waits: Vec<_> = (0..5).map(|shard| lanes.begin(Some(shard), "has waited", LIMIT)).collect();
        let now = clock::monotonic();
        assert!(health.readiness_at(now).is_ok());
        let late = health.readiness_at(now + LIMIT * 2).to_string();
        assert!(late.starts_with("[-]lanes failed: shard 0 has waited for 60 s, "), "{late}");
        assert!(late.ends_with("and 2 more\n"), "{late}");
        drop(waits);
        assert!(health.readiness_at(now + LIMIT * 2).is_ok());
        drop(lanes);
        assert_eq!(health.readiness().to_string(), "");
    }

    #[test]
    fn a_check_ends_with_its_handle() {
        let health = Health::default();
        let gone = health.check("lane 3");
        gone.failing("no broker answers");
        drop(gone);
        assert!(health.readiness().is_ok());
    }

    #[test]
    fn a_note_is_shown_changes_nothing_and_ends_with_its_handle() {
        let health = Health::default();
        health.check("postgres").ok();
        let notes = health.notes();
        notes.set(vec!["everything is paused".to_owned()]);
        let report = health.readiness();
        assert!(report.is_ok() && report.to_string().ends_with("[i]everything is paused\n"), "{report}");
        assert!(!health.liveness().to_string().contains("paused"));
        notes.set(Vec::new());
        assert_eq!(health.readiness().to_string(), "");
        notes.set(vec!["again".to_owned()]);
        drop(notes);
        assert_eq!(health.readiness().to_string(), "");
    }

    #[test]
    fn a_stopping_process_is_alive_and_not_ready() {
        let health = Health::default();
        health.check("postgres").ok();
        health.stopping();
        assert!(!health.readiness().is_ok());
        assert!(health.liveness().is_ok());
    }

    #[test]
    fn a_silent_loop_makes_the_process_dead_until_it_beats_again() {
        let health = Health::default();
        let beat = health.heartbeat("lanes", LIMIT);
        let start = clock::monotonic();
        beat.beat_at(start);
        assert!(health.liveness_at(start + LIMIT).is_ok());
        let late = start + LIMIT + Duration::from_secs(1);
        assert_eq!(health.liveness_at(late).to_string(), "[-]lanes failed: silent for 31.0 s, more than 30.0 s\n");
        beat.beat_at(late);
        assert!(health.liveness_at(late).is_ok());
    }

    #[test]
    fn a_part_that_was_abandoned_is_not_heard_any_more() {
        let health = Health::default();
        health.check("schema").ok();
        let (part, next) = (health.part(), health.part());
        let (check, _beat) = (part.check("consumer"), part.heartbeat("consumer", Duration::ZERO));
        assert!(part.is_silent() && !next.is_silent() && !part.is_working() && !next.is_working());
        assert!(!health.readiness().is_ok() && !health.liveness().is_ok());
        part.abandon();
        check.failing("too late");
        let _again = part.check("consumer");
        assert!(health.readiness().is_ok() && health.liveness().is_ok(), "{}", health.readiness());
        let own = next.check("consumer");
        assert!(!health.readiness().is_ok());
        own.ok();
        assert!(next.is_working() && health.readiness().is_ok());
    }

    #[test]
    fn a_loop_that_ended_is_not_missed() {
        let health = Health::default();
        let start = clock::monotonic();
        drop(health.heartbeat("lane 3", LIMIT));
        assert!(health.liveness_at(start + LIMIT * 10).is_ok());
    }
}

//! Whether this process is ready (named checks) and alive (heartbeats of its loops), and what else an operator should
//! see (notes).
//!
//! Components hold handles and report; nothing here queries anything. A check counts as failing until it has reported
//! `ok` once, so an instance is not ready while it starts. Invariants: a note changes neither readiness nor liveness.
//! Liveness depends on heartbeats alone: a database that is down must not make an orchestrator restart us.

mod report;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock;
pub use report::Report;

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

/// What a check last reported.
#[derive(Debug)]
struct Standing {
    outcome: Result<(), String>,
    reported: Duration,
    /// Since when it has been failing after it had been ok; the start does not count as an outage.
    failing_since: Option<Duration>,
    /// How long a success counts; `None`: until the next report.
    lasts: Option<Duration>,
    /// The reporter logs about it.
    logged_elsewhere: bool,
}

/// What a report has changed.
#[derive(Debug, PartialEq, Eq)]
enum News {
    Fails,
    /// It had been failing for so long.
    Recovered(Duration),
}

impl Standing {
    fn report(&mut self, outcome: Result<(), String>, now: Duration) -> Option<News> {
        let news = match (&self.outcome, &outcome) {
            (Ok(()), Err(_)) => {
                self.failing_since = Some(now);
                Some(News::Fails)
            }
            (Err(_), Ok(())) => self.failing_since.take().map(|since| News::Recovered(now.saturating_sub(since))),
            (Ok(()), Ok(())) | (Err(_), Err(_)) => None,
        };
        (self.outcome, self.reported) = (outcome, now);
        news.filter(|_| !self.logged_elsewhere)
    }

    fn at(&self, now: Duration) -> Result<(), String> {
        self.outcome.clone().map_err(|reason| match self.failing_since {
            // What is logged elsewhere already says since when.
            Some(since) if !self.logged_elsewhere => {
                format!("{reason} (failing for {:.0} s)", now.saturating_sub(since).as_secs_f64())
            }
            Some(_) | None => reason,
        })?;
        let age = now.saturating_sub(self.reported);
        match self.lasts {
            Some(lasts) if age > lasts => Err(format!("no success for {:.0} s", age.as_secs_f64())),
            Some(_) | None => Ok(()),
        }
    }
}

/// Something that is waited for.
#[derive(Debug)]
struct Waiting {
    what: &'static str,
    shard: Option<i16>,
    since: Duration,
    limit: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Pulse {
    last: Duration,
    limit: Duration,
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
        own.any(|beat| now.saturating_sub(beat.state.last) > beat.state.limit * 2 / 3)
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
        let state = Standing {
            outcome: Err("starting".to_owned()),
            reported: clock::monotonic(),
            failing_since: None,
            lasts,
            logged_elsewhere: false,
        };
        if entries.listens_to(self.part) {
            entries.checks.insert(id, self.named(name, state));
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
            entries.heartbeats.insert(id, self.named(name.into(), Pulse { last: clock::monotonic(), limit }));
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
        let line = |pulse: Pulse| {
            let silent = now.saturating_sub(pulse.last);
            if silent <= pulse.limit {
                Ok(())
            } else {
                Err(format!("silent for {:.1} s, more than {:.1} s", silent.as_secs_f64(), pulse.limit.as_secs_f64()))
            }
        };
        let lines = entries.heartbeats.values().map(|beat| (beat.name.clone(), line(beat.state))).collect();
        Report { lines, notes: Vec::new() }
    }
}

/// The waits that have lasted too long, the longest first; three are named.
fn too_long<'a>(waits: impl Iterator<Item = &'a Waiting>, now: Duration) -> Result<(), String> {
    let age = |wait: &Waiting| now.saturating_sub(wait.since);
    let mut late: Vec<_> = waits.filter(|wait| age(wait) > wait.limit).collect();
    if late.is_empty() {
        return Ok(());
    }
    late.sort_by_key(|wait| wait.since);
    let named = late.iter().take(3);
    let text = |wait: &&Waiting| {
        let who = wait.shard.map_or_else(String::new, |shard| format!("shard {shard} "));
        format!("{who}{} for {:.0} s", wait.what, age(wait).as_secs_f64())
    };
    let mut texts: Vec<_> = named.map(text).collect();
    if late.len() > texts.len() {
        texts.push(format!("and {} more", late.len() - texts.len()));
    }
    Err(texts.join(", "))
}

/// Handle of one readiness check.
#[derive(Debug)]
pub struct Check {
    id: u64,
    shared: Arc<Shared>,
}

impl Check {
    pub fn ok(&self) {
        self.set(Ok(()));
    }

    /// `reason` is shown to anyone who reads `/readyz`: no addresses with passwords, no keys, no payloads.
    pub fn failing(&self, reason: impl Into<String>) {
        self.set(Err(reason.into()));
    }

    /// Leaves logging of changes, and since when, to the reporter.
    pub fn leave_log_to_reporter(&self) {
        if let Some(check) = self.shared.lock().checks.get_mut(&self.id) {
            check.state.logged_elsewhere = true;
        }
    }

    fn set(&self, state: Result<(), String>) {
        let reason = state.as_ref().err().cloned().unwrap_or_default();
        let news = self.shared.lock().checks.get_mut(&self.id).and_then(|check| {
            let news = check.state.report(state, clock::monotonic())?;
            Some((check.name.clone(), news))
        });
        // Not under the lock, which the admin server waits for.
        match news {
            Some((check, News::Fails)) => tracing::warn!(check = %check, reason, "a readiness check is failing"),
            Some((check, News::Recovered(lasted))) => {
                tracing::info!(check = %check, failed_for = ?lasted, "a readiness check recovered");
            }
            None => {}
        }
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        self.shared.lock().checks.remove(&self.id);
    }
}

/// Handle of a group of workers; clones share it.
#[derive(Debug, Clone)]
pub struct Waits {
    group: Arc<WaitsGroup>,
}

#[derive(Debug)]
struct WaitsGroup {
    id: u64,
    shared: Arc<Shared>,
}

impl Waits {
    /// The lane of `shard`, or someone on behalf of all lanes, waits until the handle is dropped. `what` follows the
    /// shard in the text.
    pub fn begin(&self, shard: Option<i16>, what: &'static str, limit: Duration) -> Wait {
        let mut entries = self.group.shared.lock();
        let id = entries.new_id();
        if let Some(group) = entries.waits.get_mut(&self.group.id) {
            group.state.insert(id, Waiting { what, shard, since: clock::monotonic(), limit });
        }
        Wait { id, group: Arc::clone(&self.group) }
    }
}

impl Drop for WaitsGroup {
    fn drop(&mut self) {
        self.shared.lock().waits.remove(&self.id);
    }
}

/// A wait that lasts as long as this value.
#[derive(Debug)]
pub struct Wait {
    id: u64,
    group: Arc<WaitsGroup>,
}

impl Wait {
    /// Changes the text; the wait still counts from its start.
    pub fn now(&self, what: &'static str) {
        if let Some(group) = self.group.shared.lock().waits.get_mut(&self.group.id)
            && let Some(waiting) = group.state.get_mut(&self.id)
        {
            waiting.what = what;
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(group) = self.group.shared.lock().waits.get_mut(&self.group.id) {
            group.state.remove(&self.id);
        }
    }
}

/// Handle of some lines of information.
#[derive(Debug)]
pub struct Notes {
    id: u64,
    shared: Arc<Shared>,
}

impl Notes {
    /// Replaces the lines. Anyone can read `/readyz`: no keys, no payloads, no text that an operator typed.
    pub fn set(&self, lines: Vec<String>) {
        if let Some(notes) = self.shared.lock().notes.get_mut(&self.id) {
            notes.state = lines;
        }
    }
}

impl Drop for Notes {
    fn drop(&mut self) {
        self.shared.lock().notes.remove(&self.id);
    }
}

/// Handle of one loop.
#[derive(Debug)]
pub struct Heartbeat {
    id: u64,
    shared: Arc<Shared>,
}

impl Heartbeat {
    pub fn beat(&self) {
        self.beat_at(clock::monotonic());
    }

    fn beat_at(&self, now: Duration) {
        if let Some(beat) = self.shared.lock().heartbeats.get_mut(&self.id) {
            beat.state.last = now;
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.shared.lock().heartbeats.remove(&self.id);
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
    fn the_end_of_an_outage_is_news_and_the_end_of_a_start_is_not() {
        let second = Duration::from_secs(1);
        let mut standing = Standing {
            outcome: Err("starting".to_owned()),
            reported: second,
            failing_since: None,
            lasts: None,
            logged_elsewhere: false,
        };
        assert_eq!(standing.report(Ok(()), second), None, "it has started");
        assert_eq!(standing.report(Ok(()), second * 2), None);
        assert_eq!(standing.report(Err("no answer".to_owned()), second * 3), Some(News::Fails));
        assert_eq!(standing.report(Err("no answer yet".to_owned()), second * 4), None);
        assert_eq!(standing.at(second * 8), Err("no answer yet (failing for 5 s)".to_owned()));
        assert_eq!(standing.report(Ok(()), second * 9), Some(News::Recovered(second * 6)));
        assert_eq!(standing.report(Ok(()), second * 10), None, "told once");
        standing.logged_elsewhere = true;
        assert_eq!(standing.report(Err("gone".to_owned()), second * 11), None);
        assert_eq!(standing.at(second * 12), Err("gone".to_owned()), "whoever reports says since when");
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

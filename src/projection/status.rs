//! Whether the consumer is ready, and why not: what `/readyz` asks. Every change of that is logged here, once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Code;
use crate::health::Check;

/// What is wrong, in words for an operator, each with its code if waiting alone will not cure it.
pub type Problems = BTreeMap<String, Option<Code>>;

/// Shared between the consumer and whoever reports it. Cheap to clone. Not ready until the consumer has joined its
/// group; an instance that got no partition is ready.
#[derive(Debug, Clone)]
pub struct ConsumerStatus {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Why it does not run, or not yet.
    not_running: Option<String>,
    problems: Problems,
    /// Its line in `/readyz`.
    check: Option<Check>,
}

impl State {
    fn reason(&self) -> Option<String> {
        let reasons: Vec<&str> = self.not_running.iter().chain(self.problems.keys()).map(String::as_str).collect();
        if reasons.is_empty() { None } else { Some(reasons.join("; ")) }
    }

    fn tell(&self) {
        match (&self.check, self.reason()) {
            (Some(check), None) => check.ok(),
            (Some(check), Some(reason)) => check.failing(reason),
            (None, _) => {}
        }
    }
}

impl Default for ConsumerStatus {
    fn default() -> Self {
        let not_running = Some("the consumer has not started".to_owned());
        Self { state: Arc::new(Mutex::new(State { not_running, problems: Problems::new(), check: None })) }
    }
}

impl ConsumerStatus {
    pub fn is_ready(&self) -> bool {
        self.reason().is_none()
    }

    /// Every reason why it is not ready, `; ` between them. `None` when it is.
    pub fn reason(&self) -> Option<String> {
        self.lock().reason()
    }

    /// From now on this check says what [`ConsumerStatus::reason`] says.
    pub fn report_to(&self, check: Check) {
        let mut state = self.lock();
        state.check = Some(check);
        state.tell();
    }

    /// Returns whether that is news.
    pub(super) fn not_running(&self, reason: &str) -> bool {
        let mut state = self.lock();
        let before = state.not_running.replace(reason.to_owned());
        state.problems.clear();
        state.tell();
        before.as_deref() != Some(reason)
    }

    /// It runs, and this is all that is wrong now. Logs what is new and what is over.
    pub(super) fn report(&self, joined: bool, problems: Problems) {
        let mut state = self.lock();
        state.not_running = if joined { None } else { Some("the consumer joins its group".to_owned()) };
        for (problem, code) in problems.iter().filter(|(problem, _)| !state.problems.contains_key(*problem)) {
            match code {
                None => tracing::warn!("the consumer waits: {problem}"),
                Some(code) => {
                    tracing::error!(code = code.as_str(), help = help(*code), "the consumer waits: {problem}")
                }
            }
        }
        for problem in state.problems.keys().filter(|problem| !problems.contains_key(*problem)) {
            tracing::info!("the consumer no longer waits: {problem}");
        }
        state.problems = problems;
        state.tell();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What an operator can do about a problem.
fn help(code: Code) -> &'static str {
    if code == Code::ConsumerDataLoss {
        "if the loss is accepted, set next_offset of this partition in consumer_partitions to an offset that the log \
         holds; it is looked at again every 30 s"
    } else if code == Code::ProjectionInvalid {
        "correct the SQL, the table or the grants; it is tried again every 30 s at least, and an event is parked for it \
         only if others pass"
    } else {
        "check the credentials in [kafka] and the ACLs of the group and its topics"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_it_has_joined_and_nothing_is_wrong() {
        let status = ConsumerStatus::default();
        let reader = status.clone();
        assert!(!reader.is_ready(), "it has not started");
        status.report(false, Problems::new());
        assert!(!reader.is_ready(), "it has not joined");
        status.report(true, Problems::from([("a".to_owned(), None), ("b".to_owned(), Some(Code::ConsumerDataLoss))]));
        assert_eq!(reader.reason().as_deref(), Some("a; b"));
        status.report(true, Problems::new());
        assert!(reader.is_ready() && reader.reason().is_none());
        status.not_running("stopped");
        assert_eq!(reader.reason().as_deref(), Some("stopped"));
    }
}

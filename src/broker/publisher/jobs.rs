//! Batches on their way to the thread of a publisher, and the answers to the lanes that wait for them.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::batch::BatchState;
use super::super::{Delivery, Record};
use crate::clock::{Permit, monotonic};

/// Maximum wait for jobs that accompany another: a request for each of them would take longer.
const COMPANY_WAIT: Duration = Duration::from_micros(500);

#[derive(Debug)]
pub(super) struct Job {
    pub(super) records: Arc<Vec<Record>>,
    pub(super) permit: Permit,
    /// Set by whichever decides first: the thread that sends it, or the lane that takes it back.
    pub(super) decided: Arc<AtomicBool>,
    /// Number of jobs about to arrive, including this one.
    pub(super) company: usize,
    pub(super) reply: oneshot::Sender<Vec<Delivery>>,
}

/// The jobs of one walk whose lanes have no answer yet, each with the range of its records.
pub(super) struct Unanswered(RefCell<Vec<(Range<usize>, Job)>>);

impl Unanswered {
    pub(super) fn new(jobs: Vec<Job>) -> Self {
        let mut end = 0;
        let placed = jobs.into_iter().map(|job| {
            let start = end;
            end += job.records.len();
            (start..end, job)
        });
        Self(RefCell::new(placed.collect()))
    }

    pub(super) fn may_send(&self) -> bool {
        self.0.borrow().iter().all(|(_, job)| job.permit.holds())
    }

    pub(super) fn remaining(&self) -> Duration {
        self.0.borrow().iter().map(|(_, job)| job.permit.remaining()).min().unwrap_or_default()
    }

    /// Answers the jobs whose records all have a result, so that no lane waits for another's partitions; `all` at the
    /// end.
    pub(super) fn answer(&self, batch: &BatchState, all: bool) {
        let mut jobs = self.0.borrow_mut();
        for place in (0..jobs.len()).rev() {
            if all || batch.is_decided(&jobs[place].0) {
                let (range, job) = jobs.swap_remove(place);
                // A lane that is gone has no use for the answer; its successor reads the manifest.
                drop(job.reply.send(batch.deliveries(&range)));
            }
        }
    }
}

/// The first job, and those that come with it.
pub(super) fn gather(first: Job, inbox: &Receiver<Job>) -> Vec<Job> {
    let (company, started) = (first.company, monotonic());
    let mut jobs = vec![first];
    loop {
        jobs.extend(inbox.try_iter());
        let patience = COMPANY_WAIT.saturating_sub(monotonic().saturating_sub(started));
        if jobs.len() >= company || patience.is_zero() {
            return jobs;
        }
        jobs.extend(inbox.recv_timeout(patience));
    }
}

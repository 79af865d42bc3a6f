//! The thread of a publisher: gathers the batches that arrive together, sends them with one producer, and searches for
//! the records at fault after a rejection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use rdkafka::ClientConfig;

use super::super::Record;
use super::super::batch::{BatchState, HandOver, POLL_EVERY, Pass, Sending, State, drain, hand_over, land_and_give_up};
use super::super::call::close;
use super::super::explore::{self, Blocked, Take};
use super::super::producer::Producer;
use super::PublisherSettings;
use super::jobs::{Job, Unanswered, gather};
use crate::clock::monotonic;
use crate::failpoint::{self, Point};

/// Wait between two attempts to create a producer.
const CREATE_RETRY: Duration = Duration::from_millis(500);

/// Maximum number of walks in one search. What is left after that is sent normally, and searched again if necessary.
const SEARCH_WALKS: usize = 64;

pub(super) struct Worker {
    pub(super) settings: PublisherSettings,
    pub(super) producer: Option<Producer>,
    /// Finds rejected records: it continues after a rejection, where the other one stops.
    pub(super) finder: Option<Producer>,
    pub(super) brokers_up: Arc<AtomicBool>,
    pub(super) sending_since: Arc<AtomicU64>,
}

impl Worker {
    pub(super) fn run(mut self, inbox: &Receiver<Job>) {
        // Before the first batch: an idempotent producer needs half a second to connect and get its id.
        self.producer = self.producer(0);
        while let Ok(job) = inbox.recv() {
            let mut jobs = gather(job, inbox);
            // A lane that may not send any more hears at once that nothing was sent.
            jobs.retain(|job| job.permit.holds() && !job.decided.swap(true, Ordering::AcqRel));
            let since = u64::try_from(monotonic().as_millis()).unwrap_or(u64::MAX).saturating_add(1);
            self.sending_since.store(since, Ordering::Relaxed);
            self.publish(jobs);
            self.sending_since.store(0, Ordering::Relaxed);
        }
    }

    fn publish(&mut self, jobs: Vec<Job>) {
        let batches: Vec<_> = jobs.iter().map(|job| Arc::clone(&job.records)).collect();
        let records: Vec<&Record> = batches.iter().flat_map(|records| records.iter()).collect();
        let mut batch = BatchState::of(&records);
        let unanswered = Unanswered::new(jobs);
        let partitions = self.settings.partitions.clone();
        let sending = Sending {
            records: &records,
            partitions: &partitions,
            may_send: &|| unanswered.may_send(),
            progress: &|batch| unanswered.answer(batch, false),
            timeout: self.settings.publish_timeout,
            whole: false,
            begun: true,
        };
        while unanswered.may_send() {
            let Some(mut producer) = self.producer(records.len()) else {
                std::thread::sleep(CREATE_RETRY.min(unanswered.remaining()));
                continue;
            };
            let mut ended = pass(&mut producer, &mut batch, &sending);
            match ended {
                Pass::Done => self.producer = Some(producer),
                Pass::Interrupted => close(producer),
                Pass::Again(reason) => {
                    close(producer);
                    if batch.met_refusals() {
                        tracing::info!(
                            lane = self.settings.name,
                            "Kafka rejected records; searching for the ones at fault"
                        );
                        ended = self.search(&mut batch, &sending);
                    } else {
                        // The next producer begins with the first record that is not acknowledged.
                        tracing::warn!(reason, lane = self.settings.name, "replacing the producer");
                    }
                }
            }
            match ended {
                Pass::Done => break,
                Pass::Again(_) => {}
                Pass::Interrupted => {
                    tracing::warn!(
                        lane = self.settings.name,
                        "the lease ended while records were in flight; the next owner of the shard will resend them"
                    );
                    break;
                }
            }
        }
        batch.tell(&records, &partitions);
        unanswered.answer(&batch, true);
    }

    /// After a refusal: walks with a producer that does not end there, until every record has its outcome.
    fn search(&mut self, batch: &mut BatchState, sending: &Sending<'_>) -> Pass {
        // Connects meanwhile.
        self.producer = self.producer(sending.records.len());
        let mut group = explore::group(batch, usize::MAX);
        for _ in 0..SEARCH_WALKS {
            if !(sending.may_send)() {
                return Pass::Interrupted;
            }
            let Some(mut finder) = self.finder(sending.records.len()) else { return Pass::Again("no client") };
            match explore::walk(&mut finder, batch, sending, Take::Heads, group) {
                Pass::Done => self.finder = Some(finder),
                Pass::Again(reason) => {
                    close(finder);
                    tracing::warn!(reason, lane = self.settings.name, "restarting the search with a new producer");
                }
                Pass::Interrupted => {
                    close(finder);
                    return Pass::Interrupted;
                }
            }
            batch.met_refusals();
            if !batch.any(State::Suspect) && !batch.any(State::Waiting) {
                return Pass::Done;
            }
            group = explore::group(batch, group);
        }
        Pass::Again("the search for rejected records is not finished yet")
    }

    fn finder(&mut self, records: usize) -> Option<Producer> {
        if let Some(finder) = self.finder.take() {
            return Some(finder);
        }
        let mut client = self.settings.client.clone();
        client.set("enable.gapless.guarantee", "false");
        self.create(&client, records)
    }

    fn producer(&mut self, records: usize) -> Option<Producer> {
        if let Some(producer) = self.producer.take() {
            return Some(producer);
        }
        let client = self.settings.client.clone();
        self.create(&client, records)
    }

    fn create(&self, client: &ClientConfig, records: usize) -> Option<Producer> {
        match Producer::new(client, records, Arc::clone(&self.brokers_up)) {
            Ok(producer) => Some(producer),
            Err(error) => {
                self.brokers_up.store(false, Ordering::Relaxed);
                tracing::error!(error = %error, "could not create the Kafka client");
                None
            }
        }
    }
}

/// Sends every record that is still waiting, in order, and waits for the reports.
fn pass(producer: &mut Producer, batch: &mut BatchState, sending: &Sending<'_>) -> Pass {
    let records = sending.records;
    let mut blocked = Blocked::new(records, &batch.states, sending.partitions);
    for (index, record) in records.iter().enumerate() {
        if !matches!(batch.states[index], State::Waiting | State::Suspect) {
            continue;
        }
        if let Some(state) = blocked.instead(index, record) {
            batch.states[index] = state;
            continue;
        }
        let reached = match index {
            0 => failpoint::reach(Point::ProduceFirst),
            _ if index == records.len() / 2 => failpoint::reach(Point::ProduceMid),
            _ => Ok(()),
        };
        if reached.is_err() {
            return land_and_give_up(producer, batch, sending, "a test asked for it");
        }
        match hand_over(producer, index, batch, sending) {
            Ok(()) => {}
            Err(HandOver::Refused(class, code)) => {
                batch.states[index] = State::Refused { class, code };
                blocked.refuse(index, record);
            }
            Err(HandOver::Ended(end)) => return end,
        }
        if index % POLL_EVERY == POLL_EVERY - 1 {
            batch.take(&producer.poll(Duration::ZERO));
            if producer.fatal().is_some() {
                break;
            }
        }
    }
    if let Some(end) = drain(producer, batch, sending) {
        return end;
    }
    if batch.any(State::Waiting) || batch.any(State::Suspect) {
        return Pass::Again("the client gave up records");
    }
    Pass::Done
}

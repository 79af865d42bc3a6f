//! After a rejection in a transaction: finds the records that Kafka rejects, in transactions that are always aborted,
//! so order and repeats do not matter.

use std::time::Duration;

use super::{Outcome, Worker};
use crate::broker::batch::{BatchState, Pass, Sending, State};
use crate::broker::call::close;
use crate::broker::explore::{self, Take};
use crate::broker::producer::Producer;
use crate::clock::{Permit, monotonic};

/// So that all records of a partition go out in one request, which is refused as a whole and names those at fault:
/// nothing is sent after the first refusal of a transaction.
const LINGER_MS: &str = "5";
/// Maximum wait for the reports of what was purged.
const LAST_REPORTS: Duration = Duration::from_secs(2);
/// Maximum wait for a former transaction to be ended.
const BLOCKED: Duration = Duration::from_secs(4);
/// After this long, what was found so far is reported. The rest is met again, unless the settings of the topic explain
/// it by then.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

impl Worker {
    /// Every record that Kafka refuses, as far as it can be found in a few seconds. The producer of the lane must be
    /// gone: this one fences it.
    pub(super) fn search(&self, batch: &mut BatchState, sending: &Sending<'_>, permit: &Permit) -> Outcome {
        match self.find(batch, sending, permit) {
            Ok(()) => {}
            Err(reason) => {
                tracing::warn!(reason, lane = self.settings.name, "the search for rejected records ended early")
            }
        }
        batch.at_fault().unwrap_or_else(|| Outcome::Unknown("Kafka refused records that it took one by one".to_owned()))
    }

    fn find(&self, batch: &mut BatchState, sending: &Sending<'_>, permit: &Permit) -> Result<(), String> {
        let mut client = self.settings.client.clone();
        client.set("linger.ms", LINGER_MS);
        let producer = Producer::new(&client, sending.records.len(), std::sync::Arc::clone(&self.brokers_up));
        let mut producer = producer.map_err(|error| error.to_string())?.watched_by(std::sync::Arc::clone(&self.watch));
        let ended = Self::rounds(&mut producer, batch, sending, permit);
        close(producer);
        ended
    }

    fn rounds(
        producer: &mut Producer,
        batch: &mut BatchState,
        sending: &Sending<'_>,
        permit: &Permit,
    ) -> Result<(), String> {
        producer.fence(permit, BLOCKED).map_err(|error| error.to_string())?;
        let started = monotonic();
        let mut group = explore::group(batch, usize::MAX);
        let mut round = 0;
        loop {
            round += 1;
            if !permit.holds() {
                return Err("the lease is over".to_owned());
            }
            batch.flagged();
            producer.begin().map_err(|error| error.to_string())?;
            // How it ended does not matter: what is known by now is in the states.
            match explore::walk(producer, batch, sending, Take::All, group) {
                Pass::Done | Pass::Again(_) | Pass::Interrupted => {}
            }
            batch.take(&producer.purge_and_wait(LAST_REPORTS));
            batch.reset_sent();
            producer.abort(permit).map_err(|error| error.to_string())?;
            batch.met_refusals();
            // Only a refused request casts suspicion: most likely the reason was among its records, and the others were
            // its neighbours.
            let flagged = batch.flagged();
            for (index, state) in batch.states.iter_mut().enumerate() {
                if *state == State::Suspect && !flagged.is_empty() && !flagged.contains(&index) {
                    *state = State::Waiting;
                }
            }
            let refused = batch.states.iter().filter(|state| matches!(state, State::Refused { .. })).count();
            let lane = std::thread::current();
            tracing::debug!(lane = lane.name(), round, refused, "searched for rejected records");
            if !batch.any(State::Suspect) && !batch.any(State::Waiting) {
                return Ok(());
            }
            if monotonic().saturating_sub(started) > LONG_ENOUGH && batch.at_fault().is_some() {
                return Err("found enough for now".to_owned());
            }
            // Each round has other suspects.
            group = explore::group(batch, usize::MAX);
        }
    }
}

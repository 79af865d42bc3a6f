//! A step of several lanes of one instance in one transaction, as `PgOutbox::step_together` has it: only in
//! at-least-once delivery, and never with a batch of a former owner.

use outbox_relay::relay::protocol::{Intent, Next};

use crate::lane::{Doing, Lane, Parts, Process};
use crate::postgres::PgError;
use crate::relay::Relay;
use crate::rules::{Luck, Precaution};
use crate::shard::Number;

impl Lane {
    /// The step that it is about to take together with others.
    pub fn shares_next(&self) -> Option<Intent> {
        let Doing::Next(Next::Step(intent @ Intent { shared: true, .. })) = self.doing else { return None };
        Some(intent)
    }

    /// It takes the same step alone.
    fn undone(&mut self, intent: Intent) {
        self.protocol.undone();
        self.doing = Doing::Next(Next::Step(Intent { shared: false, ..intent }));
    }
}

impl Relay {
    /// Those whose next step is a shared one.
    pub fn sharing(&self) -> Vec<Number> {
        (0..self.lanes.len()).filter(|lane| self.lanes[*lane].shares_next().is_some()).collect()
    }

    /// The steps of these lanes, in one transaction.
    pub fn together(&mut self, lanes: &[Number], luck: Luck, parts: &mut Parts<'_>) -> Process {
        let rules = parts.rules;
        // What becomes of each part: whether the transaction does something for it.
        let takes_part: Vec<Result<(), PgError>> = lanes
            .iter()
            .map(|lane| {
                let intent = self.lanes[*lane].shares_next().expect("it shares its next step");
                let exists = *lane < parts.db.shards().len();
                match parts.db.check(rules, self.lanes[*lane].fence(), intent.expected) {
                    _ if luck == Luck::Undone => Err(PgError::Undone),
                    Err(PgError::Fenced) if exists && !rules.has(Precaution::FencedLeftOut) => Ok(()),
                    Err(PgError::Moved) if !rules.has(Precaution::MovedLeftOut) => Ok(()),
                    // Alone it finds out, or waits.
                    Err(PgError::Fenced | PgError::Busy) => Err(PgError::Undone),
                    other => other,
                }
            })
            .collect();
        let in_it = |(lane, part): (&Number, &Result<(), PgError>)| part.is_ok().then_some(*lane);
        let mut draft = parts.db.begin(lanes.iter().zip(&takes_part).filter_map(in_it));
        let done: Vec<_> = lanes
            .iter()
            .zip(takes_part)
            .map(|(lane, part)| {
                let lane = &self.lanes[*lane];
                let intent = lane.shares_next().expect("it shares its next step");
                part.map(|()| lane.work(intent, parts.horizon, &mut draft, rules))
            })
            .collect();
        let is_unknown = luck != Luck::Undone && parts.db.end(draft, luck).is_err();
        let mut process = Process::GoesOn;
        for (n, (lane, done)) in lanes.iter().zip(done).enumerate() {
            let lane = &mut self.lanes[*lane];
            let intent = lane.shares_next().expect("it shares its next step");
            match done {
                // Nobody knows, whatever was to be done for it.
                _ if is_unknown && (n == 0 || rules.has(Precaution::LostForAll)) => {
                    lane.stepped(intent, Err(PgError::Unknown));
                }
                Err(PgError::Undone) => {
                    lane.undone(intent);
                    continue;
                }
                done => lane.stepped(intent, done),
            }
            if lane.plan(parts) == Process::Ends {
                process = Process::Ends;
            }
        }
        process
    }
}

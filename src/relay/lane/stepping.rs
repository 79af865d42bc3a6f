//! A lane takes a step: one transaction in PostgreSQL, alone or with other lanes.

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use super::Lane;
use super::protocol::{Intent, Protocol, Work};
use crate::broker::Record;
use crate::clock::monotonic;
use crate::config::{Ordering, Tracking};
use crate::error::Code;
use crate::metrics::PollLabel;
use crate::outbox::{Claim, Limits, OutboxError, Outcome, Source, Step};
use crate::relay::permits::permit_end;
use crate::relay::screen::Screen;
use crate::relay::shared_step::{Request, SharedSteps};

/// How often a lane moves its `low_id`, where rows are marked. One index read each; and where an open transaction
/// elsewhere keeps dead rows from being removed, each claim reads again what was published since.
pub(super) const LOW_ID_INTERVAL: Duration = Duration::from_millis(200);

impl Lane {
    /// Takes the step and tells the protocol how it ended. What was claimed is in `self.claimed` then.
    pub(super) async fn step(&mut self, protocol: &mut Protocol, intent: Intent) {
        if !intent.shared {
            self.in_flight = None;
        }
        self.waits_for_step();
        match self.try_step(protocol, intent).await {
            Ok(step) => self.stepped(protocol, intent, step),
            Err(error) => {
                protocol.step_failed(&error);
                self.step_failed(error);
            }
        }
    }

    fn stepped(&mut self, protocol: &mut Protocol, intent: Intent, step: Step<Record>) {
        self.backoff.reset();
        self.stepping = None;
        if let Some(leased_at) = step.leased_at {
            self.permit.extend(permit_end(leased_at, self.shared.outbox.lease()));
        }
        self.shared.health.step_worked(self.fence.shard);
        if step.missing > 0 {
            let code = Code::SettleMismatch.as_str();
            tracing::error!(
                code,
                shard = self.fence.shard,
                rows = step.missing,
                "published rows were changed or deleted by another session before they were settled"
            );
        }
        protocol.stepped(intent, &step);
        self.claimed = step.batch;
    }

    fn step_failed(&mut self, error: OutboxError) {
        match error {
            OutboxError::Fenced(_) => {}
            error @ (OutboxError::Moved { .. } | OutboxError::Unchanged) => {
                tracing::warn!(shard = self.fence.shard, error = %error, "reopening the shard");
            }
            OutboxError::Db(error) => {
                self.shared.health.step_failed(self.fence.shard, &error);
                self.retry_in = self.backoff.next_wait();
                let wait = self.retry_in;
                tracing::warn!(shard = self.fence.shard, error = %error.chain(), wait = ?wait, "settle/claim transaction failed; retrying");
            }
        }
    }

    async fn try_step(&mut self, protocol: &mut Protocol, intent: Intent) -> Result<Step<Record>, OutboxError> {
        let move_low_id = monotonic().saturating_sub(self.low_id_moved) > LOW_ID_INTERVAL;
        if move_low_id {
            self.low_id_moved = monotonic();
        }
        let limits = self.pace.limits(Limits { row_bytes: self.row_bytes, ..self.shared.limits });
        let claim = Claim {
            source: match intent.work {
                // Those of a manifest are told when it is taken alone, as it always is.
                Work::Settle | Work::Resend => Source::Nothing,
                Work::Next => Source::Waiting,
            },
            release: self.topics.is_known(),
            limits: if intent.shared { SharedSteps::limits(limits) } else { limits },
            horizon: self.shared.horizon(),
            move_low_id,
            strict: self.shared.ordering == Ordering::Strict,
            numbered: intent.numbered,
            marked: intent.marked,
            expected: intent.expected,
            forget: intent.forget,
        };
        let started = monotonic();
        let again = intent.work == Work::Resend;
        let screen = Screen::new(Arc::clone(&self.shared), again, self.topics.asked());
        let (mut screen, step) = Box::pin(self.take_step(protocol, intent, claim, screen)).await;
        let took = monotonic().saturating_sub(started);
        match &step {
            Ok(_) => self.pace.worked(),
            Err(_) => self.pace.failed(took),
        }
        let step = step?;
        if !step.postponed {
            screen.report();
        }
        self.row_bytes = step.row_bytes.unwrap_or(self.row_bytes);
        if let (Some(batch), Tracking::Rows) = (&step.batch, self.shared.tracking) {
            self.unpassed = self.unpassed.max(batch.events.last().map(|event| event.id));
        } else if move_low_id {
            self.unpassed = self.unpassed.filter(|last| *last > claim.horizon.id);
        }
        self.topics.ask(&self.shared.catalog, screen.unknown, screen.awaited);
        let result = match (&step.batch, step.full) {
            (_, true) => "full",
            (Some(_), false) => "partial",
            (None, false) => "empty",
        };
        self.shared.metrics.poll_duration.get_or_create(&PollLabel { result }).observe(took.as_secs_f64());
        Ok(step)
    }

    /// With other lanes where the protocol wants it and nothing keeps it from that, alone otherwise.
    async fn take_step(
        &mut self,
        protocol: &mut Protocol,
        intent: Intent,
        claim: Claim<'static>,
        mut screen: Screen,
    ) -> (Screen, Result<Step<Record>, OutboxError>) {
        if intent.shared {
            let settlement = mem::take(protocol.settlement());
            let request = Request { fence: self.fence, settlement, claim, screen };
            let (request, outcome) = self.shared_steps.step(request, &mut self.in_flight).await;
            *protocol.settlement() = request.settlement;
            screen = request.screen;
            match outcome {
                Outcome::Done(step) => return (screen, Ok(step)),
                Outcome::Failed(error) => return (screen, Err(error)),
                Outcome::NotTried => protocol.undone(),
            }
        }
        let (settlement, resend) = protocol.in_hand();
        let source = match (intent.work, resend) {
            (Work::Resend, Some(ids)) => Source::Manifest(ids),
            (Work::Resend | Work::Settle | Work::Next, _) => claim.source,
        };
        let claim = Claim { source, ..claim };
        let step = self.shared.outbox.step(self.fence, settlement, claim, |event| screen.screen(event)).await;
        (screen, step)
    }
}

//! A lane asks where its shard stands: PostgreSQL here, Kafka in `exactly_once.rs`.

use super::protocol::{Ask, Found, Protocol};
use super::{Lane, Sender};
use crate::failpoint::{self, Point};
use crate::outbox::{OutboxError, ShardState};

impl Lane {
    /// Asks one question of [`Protocol`] and gives it the answer.
    pub(super) async fn ask(&mut self, protocol: &mut Protocol, ask: Ask) {
        if matches!(self.sender, Sender::ExactlyOnce(_)) {
            self.waits_to_open();
        }
        match ask {
            Ask::State => match self.shared.outbox.state(self.fence).await {
                Ok(state) => self.found(protocol, state),
                Err(error) => self.state_failed(protocol, &error),
            },
            ask @ (Ask::Marker | Ask::Fence { .. } | Ask::NextProducer { .. } | Ask::Write(_)) => {
                self.ask_about_transactions(protocol, ask).await;
            }
        }
        if let Sender::ExactlyOnce(transactions) = &mut self.sender
            && protocol.is_open()
        {
            transactions.opened();
            self.shared.metrics.opens.inc();
        }
    }

    fn found(&mut self, protocol: &mut Protocol, state: ShardState) {
        let (seq, in_flight, marked) = (state.batch_seq, state.batch_ids.is_some(), state.marked);
        if protocol.decides() {
            self.shared.health.postgres_works();
            self.shared.health.kafka_works();
            if let Err(reason) = failpoint::reach(Point::Resolved) {
                protocol.ask_failed();
                return self.kafka_did_not_answer(&reason);
            }
        }
        let marker_due = match &self.sender {
            Sender::AtLeastOnce(_) => false,
            Sender::ExactlyOnce(transactions) => transactions.marker_rest().is_zero(),
        };
        match protocol.found(state, marker_due) {
            Found::Incomplete | Found::Recovered | Found::Refused(_) => {}
            Found::Resolved(resolution) => {
                tracing::debug!(shard = self.fence.shard, seq, in_flight, marked, ?resolution, "opened the shard");
            }
            Found::Blocked => {
                // Kafka works, and other shards may be open.
                self.waits_for_former_owner();
                self.retry_in = self.backoff.next_wait();
                tracing::warn!(
                    shard = self.fence.shard,
                    partitions = self.shared.catalog.partitions().leaderless().join(", "),
                    "the outcome of a former owner's batch is unknown while a partition of its transaction has no leader; the shard waits"
                );
            }
        }
    }

    /// PostgreSQL did not say where the shard stands.
    pub(super) fn state_failed(&mut self, protocol: &mut Protocol, error: &OutboxError) {
        protocol.state_failed(error);
        self.retry_in = self.backoff.next_wait();
        match error {
            // Only a step compares batches, and writes to rows.
            OutboxError::Fenced(_) | OutboxError::Moved { .. } | OutboxError::Unchanged => {}
            OutboxError::Db(error) => {
                self.shared.health.postgres_failed(error);
                if matches!(self.sender, Sender::ExactlyOnce(_)) {
                    tracing::warn!(shard = self.fence.shard, error = %error.chain(), "could not open the shard; retrying");
                }
            }
        }
    }
}

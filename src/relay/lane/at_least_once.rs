//! How a lane sends without transactions: with the batches of other lanes where it was claimed together with them, and
//! otherwise with a client of its own.

use std::sync::Arc;
use std::time::Duration;

use super::Lane;
use crate::broker::publisher::Publisher;
use crate::broker::{Delivery, Record};

/// A walk to Kafka that has lasted as long is not waited for by lanes that have nothing to do with it.
const STUCK: Duration = Duration::from_millis(250);

impl Lane {
    /// Publishes without a transaction: with those of other lanes what was claimed with them, alone the rest. Every
    /// batch is acknowledged before the next one, so who sends it changes no order.
    pub(super) async fn publish_outside(&self, own: &Publisher, records: &Arc<Vec<Record>>) -> Vec<Delivery> {
        if let (Some(shared), Some(in_flight)) = (self.shared_publisher(), &self.in_flight) {
            let records = Arc::clone(records);
            let published = shared.publish_within(STUCK, records, self.permit.clone(), in_flight.group_size).await;
            if let Some(deliveries) = published {
                return deliveries;
            }
        }
        own.publish(Arc::clone(records), self.permit.clone(), 1).await
    }

    /// The publisher that this lane's batch goes to: that of all lanes, or its own.
    pub(super) fn publisher<'a>(&'a self, own: &'a Publisher) -> &'a Publisher {
        self.shared_publisher().filter(|_| self.in_flight.is_some()).unwrap_or(own)
    }

    /// Unless it is stuck: a partition without a leader is for those to wait for who have something for it.
    fn shared_publisher(&self) -> Option<&Publisher> {
        self.shared_steps.publisher().filter(|shared| shared.busy() < STUCK)
    }
}

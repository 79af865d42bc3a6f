//! What all lanes of an instance share, and the tasks beside them.

mod idle;
mod paused;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use uuid::Uuid;

use super::encode::Encoder;
use super::health::RelayHealth;
use crate::broker::publisher::PublisherSettings;
use crate::broker::topics::TopicCatalog;
use crate::broker::transaction::TransactionSettings;
use crate::config::{Ordering, Tracking};
use crate::event::ShardId;
use crate::metrics::Metrics;
use crate::outbox::barrier::Reached;
use crate::outbox::{Limits, PgOutbox};
pub(super) use idle::IdleLanes;
pub(super) use paused::{Paused, Pauses};

/// Called with the ids of the events that Kafka has just acknowledged, before they are settled. Must not block.
pub type AckTap = Arc<dyn Fn(&[i64]) + Send + Sync>;

/// How lanes send: templates of their settings.
pub(super) enum Sending {
    AtLeastOnce(PublisherSettings),
    /// With the name of this outbox, which its markers carry.
    ExactlyOnce(TransactionSettings, Uuid),
}

/// What all lanes of an instance share.
pub(super) struct Lanes {
    pub(super) instance: Uuid,
    /// How long a shard belongs to an instance that has gone.
    pub(super) lease: Duration,
    pub(super) outbox: PgOutbox,
    pub(super) catalog: TopicCatalog,
    pub(super) encoder: Encoder,
    pub(super) sending: Sending,
    pub(super) client_id: String,
    pub(super) ordering: Ordering,
    pub(super) tracking: Tracking,
    pub(super) limits: Limits,
    /// One permit per batch in flight: bounds memory whatever the number of shards.
    pub(super) batches: Arc<Semaphore>,
    pub(super) metrics: Metrics,
    pub(super) health: RelayHealth,
    pub(super) idle: IdleLanes,
    pub(super) paused: Pauses,
    pub(super) horizon: Mutex<Reached>,
    pub(super) owned: Mutex<Vec<ShardId>>,
    pub(super) ack_tap: Option<AckTap>,
}

impl Lanes {
    /// No row with an id up to this one can appear any more.
    pub(super) fn horizon(&self) -> Reached {
        *self.horizon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_horizon(&self, reached: Reached) {
        *self.horizon.lock().unwrap_or_else(PoisonError::into_inner) = reached;
    }

    /// The highest id that may be claimed. In strict order nothing is claimed that a lower id could still precede.
    pub(super) fn ceiling(&self) -> i64 {
        match self.ordering {
            Ordering::Key => i64::MAX,
            Ordering::Strict => self.horizon().id,
        }
    }

    pub(super) fn owned_shards(&self) -> Vec<ShardId> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_owned(&self, shards: Vec<ShardId>) {
        *self.owned.lock().unwrap_or_else(PoisonError::into_inner) = shards;
    }
}

//! The relay: the shards that this instance owns, one lane per shard, and what the lanes share.
//!
//! Only this module knows both the outbox and the broker.

pub mod encode;
pub mod policy;
pub mod progress;
pub mod routing;
pub mod takeover;

mod cluster;
mod horizon;
mod lane;
mod ownership;
mod pauses;
mod shared_step;
mod survey;
mod upkeep;
mod wakeup;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::broker::admin::Admin;
use crate::broker::publisher::{Publisher, PublisherSettings};
use crate::broker::topics::TopicCatalog;
use crate::broker::transaction::TransactionSettings;
use crate::config::{Ordering, RelayConfig, ReprocessConfig, Tracking};
use crate::db::{DbError, Pool};
use crate::error::{Code, Error, Result};
use crate::event::ShardId;
use crate::health::{Check, Heartbeat, Notes, Waits};
use crate::metrics::Metrics;
use crate::outbox::barrier::Reached;
use crate::outbox::leases::Leases;
use crate::outbox::{Limits, PgOutbox};
use crate::signals::Board;
use encode::Encoder;
pub use lane::protocol;
use pauses::Pauses;
use shared_step::SharedSteps;
use wakeup::Wakeup;

/// Called with the ids of the events that Kafka has just acknowledged, before they are settled. Must not block.
pub type AckTap = Arc<dyn Fn(&[i64]) + Send + Sync>;

/// What the relay is made of; `app` puts it together.
pub struct Parts {
    pub settings: RelayConfig,
    pub outbox: PgOutbox,
    pub leases: Leases,
    /// Of the lease role, for the barrier.
    pub lease_pool: Pool,
    /// Of the admin role, for the survey, pauses and upkeep.
    pub admin_pool: Pool,
    pub reprocess: ReprocessConfig,
    pub catalog: TopicCatalog,
    pub encoder: Encoder,
    /// A template: each lane sets its own name and client id.
    pub publisher: PublisherSettings,
    /// The same for exactly-once delivery; `None` for at-least-once.
    pub transactions: Option<TransactionSettings>,
    /// To look after the topic of the markers.
    pub admin: Admin,
    pub client_id: String,
    pub metrics: Metrics,
    pub health: RelayHealth,
    pub heartbeat: Heartbeat,
    pub ack_tap: Option<AckTap>,
    /// How long a stop may take before what is in flight is given up.
    pub shutdown_timeout: Duration,
}

/// How lanes send: templates of their settings.
enum Sending {
    AtLeastOnce(PublisherSettings),
    /// With the name of this outbox, which its markers carry.
    ExactlyOnce(TransactionSettings, Uuid),
}

/// What all lanes of an instance share.
struct Lanes {
    instance: Uuid,
    /// How long a shard belongs to an instance that has gone.
    lease: Duration,
    outbox: PgOutbox,
    catalog: TopicCatalog,
    encoder: Encoder,
    sending: Sending,
    client_id: String,
    ordering: Ordering,
    tracking: Tracking,
    limits: Limits,
    /// One permit per batch in flight: bounds memory whatever the number of shards.
    batches: Arc<Semaphore>,
    shared_steps: SharedSteps,
    metrics: Metrics,
    health: RelayHealth,
    wakeup: Wakeup,
    paused: Pauses,
    horizon: Mutex<Reached>,
    owned: Mutex<Vec<ShardId>>,
    ack_tap: Option<AckTap>,
}

impl Lanes {
    /// No row with an id up to this one can appear any more.
    fn horizon(&self) -> Reached {
        *self.horizon.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_horizon(&self, reached: Reached) {
        *self.horizon.lock().unwrap_or_else(PoisonError::into_inner) = reached;
    }

    /// The highest id that may be claimed. In strict order nothing is claimed that a lower id could still precede.
    fn ceiling(&self) -> i64 {
        match self.ordering {
            Ordering::Key => i64::MAX,
            Ordering::Strict => self.horizon().id,
        }
    }

    fn owned_shards(&self) -> Vec<ShardId> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_owned(&self, shards: Vec<ShardId>) {
        *self.owned.lock().unwrap_or_else(PoisonError::into_inner) = shards;
    }
}

/// Steps of a shard that fail one after the other before the instance is not ready.
const STUCK_STEPS: u32 = 3;

/// The relay's lines in `/readyz` and its component gauges.
pub struct RelayHealth {
    postgres: Check,
    kafka: Check,
    /// That ids are drawn in turn.
    ids: Check,
    /// What is paused.
    pauses: Notes,
    /// That no shard can be had for now.
    resharding: Notes,
    /// Shards whose steps fail one after the other, how many, and why.
    failing: Mutex<BTreeMap<ShardId, (u32, String)>>,
    /// Partitions that take no records.
    partitions: Notes,
    /// What lanes wait for.
    waits: Waits,
    /// What the survey finds that events wait for.
    board: Board,
    metrics: Metrics,
}

impl RelayHealth {
    pub fn new(checks: [Check; 4], notes: [Notes; 4], waits: Waits, metrics: Metrics) -> Self {
        let [postgres, kafka, ids, outbox] = checks;
        let [pauses, resharding, partitions, others] = notes;
        let board = Board::new("relay", metrics.clone());
        board.report_to(Some(outbox), others);
        let failing = Mutex::default();
        Self { postgres, kafka, ids, pauses, resharding, partitions, failing, waits, board, metrics }
    }

    fn postgres_works(&self) {
        let failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let stuck = failing.iter().find(|(_, (steps, _))| *steps >= STUCK_STEPS);
        if let Some((shard, (steps, reason))) = stuck {
            // Somebody else's success is none of this shard's.
            self.postgres
                .failing(format!("shard {shard} makes no progress: {steps} steps failed, the last one with {reason}"));
        } else {
            self.postgres.ok();
        }
        self.metrics.set_component("postgres", stuck.is_none());
    }

    /// A step of the shard has failed.
    fn step_failed(&self, shard: ShardId, error: &DbError) {
        let sqlstate = error.sqlstate().map_or("none", |code| code.code());
        // Not what the server says: it may quote a row.
        let reason = format!("{error}, SQLSTATE {sqlstate}");
        self.postgres_failed(error);
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let steps = failing.get(&shard).map_or(0, |(steps, _)| *steps);
        failing.insert(shard, (steps.saturating_add(1), reason));
    }

    fn step_worked(&self, shard: ShardId) {
        self.lane_ended(shard);
        self.postgres_works();
    }

    /// The shard is someone else's affair from now on.
    fn lane_ended(&self, shard: ShardId) {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).remove(&shard);
    }

    fn postgres_failed(&self, error: &DbError) {
        self.postgres.failing(error.to_string());
        self.metrics.set_component("postgres", false);
    }

    fn kafka_works(&self) {
        self.kafka.ok();
        self.metrics.set_component("kafka", true);
    }

    fn kafka_failed(&self, reason: &str) {
        self.kafka.failing(reason);
        self.metrics.set_component("kafka", false);
    }
}

/// Runs the relay until `stop`, then drains the lanes, gives the shards up and returns.
///
/// Errors: [`Code::Fenced`] when another instance owns a shard that this one believed to own.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<()> {
    let settings = parts.settings;
    let limits = Limits {
        rows: settings.batch_rows,
        bytes: settings.batch_bytes.as_u64(),
        record_bytes: settings.max_record_bytes.as_u64(),
        row_bytes: 0,
    };
    let sending = match parts.transactions {
        None => Sending::AtLeastOnce(parts.publisher),
        Some(transactions) => {
            let topic = &transactions.place.topic;
            match progress::prepare(topic, &parts.admin, &parts.outbox, &parts.health, &parts.heartbeat, &stop).await? {
                Some(installation) => Sending::ExactlyOnce(transactions, installation),
                None => return Ok(()),
            }
        }
    };
    let publisher = match &sending {
        Sending::AtLeastOnce(settings) => {
            let no_thread = |error| Error::new(Code::Unexpected, "could not start a thread").caused_by(error);
            let settings = settings.of("lanes".to_owned(), format!("{}-lanes", parts.client_id));
            Some(Publisher::start(settings).map_err(no_thread)?)
        }
        Sending::ExactlyOnce(..) => None,
    };
    let (shared_steps, steps) = SharedSteps::new(publisher);
    let lanes = Arc::new(Lanes {
        instance: parts.leases.instance(),
        lease: settings.lease,
        outbox: parts.outbox,
        catalog: parts.catalog,
        encoder: parts.encoder,
        sending,
        client_id: parts.client_id,
        ordering: settings.ordering,
        tracking: settings.tracking,
        limits,
        batches: Arc::new(Semaphore::new(usize::from(settings.parallel_batches.get()))),
        shared_steps,
        metrics: parts.metrics,
        health: parts.health,
        wakeup: Wakeup::default(),
        paused: Pauses::default(),
        horizon: Mutex::default(),
        owned: Mutex::default(),
        ack_tap: parts.ack_tap,
    });
    pauses::look(&lanes, &parts.admin_pool).await;
    // They end with the stop, or with the owner when it fails.
    let helpers = stop.child_token();
    // Lanes still take steps after the stop.
    let after_lanes = CancellationToken::new();
    let background = async {
        tokio::join!(
            shared_step::run(&lanes, steps, after_lanes.clone()),
            wakeup::run(&lanes, settings.poll_min, settings.poll_max, helpers.clone()),
            horizon::run(Arc::clone(&lanes), parts.lease_pool, helpers.clone()),
            survey::run(Arc::clone(&lanes), parts.admin_pool.clone(), helpers.clone()),
            pauses::run(Arc::clone(&lanes), parts.admin_pool.clone(), helpers.clone()),
            upkeep::run(Arc::clone(&lanes), parts.admin_pool, parts.reprocess, helpers.clone()),
            cluster::run(Arc::clone(&lanes), helpers.clone()),
        )
    };
    let owner = ownership::Owner::new(
        Arc::clone(&lanes),
        parts.leases,
        parts.heartbeat,
        settings.lease,
        parts.shutdown_timeout,
    );
    let main = async {
        let ended = owner.run(stop.clone()).await;
        helpers.cancel();
        after_lanes.cancel();
        ended
    };
    let (ended, _) = tokio::join!(main, background);
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;

    #[test]
    fn a_shard_without_progress_is_not_hidden_by_the_success_of_others() {
        let all = Health::default();
        let health = RelayHealth::new(
            [all.check("postgres"), all.check("kafka"), all.check("ids"), all.check("outbox")],
            [all.notes(), all.notes(), all.notes(), all.notes()],
            all.waits("waits"),
            Metrics::new(),
        );
        health.kafka_works();
        health.ids.ok();
        let error = || DbError::of_a_test("gone".to_owned());
        for _ in 1..STUCK_STEPS {
            health.step_failed(3, &error());
            health.step_worked(4);
            assert!(all.readiness().is_ok(), "a failed step is repeated");
        }
        health.step_failed(3, &error());
        health.step_worked(4);
        health.postgres_works();
        assert!(all.readiness().to_string().contains("shard 3 makes no progress"), "{}", all.readiness());
        health.step_worked(3);
        assert!(all.readiness().is_ok());
    }
}

//! The relay: the shards that this instance owns, one lane per shard, and what the lanes share.
//!
//! Only this module knows both the outbox and the broker.

pub mod encode;
pub mod policy;
pub mod progress;
pub mod routing;
pub mod takeover;

mod cluster;
mod health;
mod horizon;
mod lane;
mod ownership;
mod pauses;
mod permits;
mod screen;
mod shared;
mod shared_step;
mod survey;
mod upkeep;
mod wakeup;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::broker::admin::Admin;
use crate::broker::publisher::{Publisher, PublisherSettings};
use crate::broker::topics::TopicCatalog;
use crate::broker::transaction::TransactionSettings;
use crate::config::{RelayConfig, ReprocessConfig};
use crate::db::Pool;
use crate::error::{Code, Error, Result};
use crate::health::Heartbeat;
use crate::metrics::Metrics;
use crate::outbox::leases::Leases;
use crate::outbox::{Limits, PgOutbox};
use encode::Encoder;
pub use health::RelayHealth;
pub use lane::protocol;
pub use shared::AckTap;
use shared::{IdleLanes, Lanes, Pauses, Sending};
use shared_step::SharedSteps;

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

/// Runs the relay until `stop`, then drains the lanes, gives the shards up and returns.
///
/// Errors: [`Code::Fenced`] when another instance owns a shard that this one believed to own.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<()> {
    let settings = parts.settings;
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
    let (shared_steps, steps) = SharedSteps::new(shared_publisher(&sending, &parts.client_id)?);
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
        limits: limits_of(&settings),
        batches: Arc::new(Semaphore::new(usize::from(settings.parallel_batches.get()))),
        metrics: parts.metrics,
        health: parts.health,
        idle: IdleLanes::default(),
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
            shared_step::run(&lanes.outbox, steps, after_lanes.clone()),
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
        Arc::new(shared_steps),
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

fn limits_of(settings: &RelayConfig) -> Limits {
    Limits {
        rows: settings.batch_rows,
        bytes: settings.batch_bytes.as_u64(),
        record_bytes: settings.max_record_bytes.as_u64(),
        row_bytes: 0,
    }
}

/// Sends the batches of lanes that share their steps. `None` in exactly-once delivery, where each lane goes alone.
fn shared_publisher(sending: &Sending, client_id: &str) -> Result<Option<Publisher>> {
    match sending {
        Sending::AtLeastOnce(settings) => {
            let no_thread = |error| Error::new(Code::Unexpected, "could not start a thread").caused_by(error);
            let settings = settings.of("lanes".to_owned(), format!("{client_id}-lanes"));
            Publisher::start(settings).map(Some).map_err(no_thread)
        }
        Sending::ExactlyOnce(..) => Ok(None),
    }
}

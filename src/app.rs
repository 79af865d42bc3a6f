//! From settings to a running process: the only place that connects the modules.

pub(crate) mod ends;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::admin;
use crate::broker::admin::Admin;
use crate::broker::client_config;
use crate::broker::publisher::PublisherSettings;
use crate::broker::reconnect::LostBrokers;
use crate::broker::topics::TopicCatalog;
use crate::broker::transaction::{MarkerPlace, TransactionSettings};
use crate::cleanup::{self, partitions};
use crate::config::{AfterPublish, Config, Delivery, RelayConfig, Tracking};
use crate::db::{CLEANER_CONNECTIONS, Database, LEASE_CONNECTIONS, PARTITION_CONNECTIONS, Role, UPKEEP_CONNECTIONS};
use crate::error::{Code, Error, Result};
use crate::failpoint;
use crate::health::{Check, Health};
use crate::measure::watch;
use crate::metrics::Metrics;
use crate::migrations::{self, State};
use crate::operations::preflight;
use crate::outbox::leases::Leases;
use crate::outbox::restart::{self, Restart};
use crate::outbox::{PgOutbox, SettleMode, barrier, home};
use crate::projection::Projection;
use crate::projection::consumer::Consumer;
use crate::relay::encode::Encoder;
use crate::relay::policy::Policy;
use crate::relay::routing::Routing;
use crate::relay::{self, AckTap, RelayHealth};
use crate::retry::Backoff;
use crate::supervisor::{Attempt, Part, Supervisor};

/// How long the loop that owns the leases, and that of the consumer, may be silent before `/livez` fails: longer than
/// every timeout of the database calls in it together, so that an outage is not taken for a loop that hangs. Such a
/// part is replaced after two thirds of this.
const PART_SILENCE: Duration = Duration::from_secs(180);

/// Parts of `run.shutdown_timeout`: when what has not drained is dropped, and when the HTTP server is. The relay gives
/// up what is in flight before (`ownership.rs`), and a watchdog ends the process after.
const DRAINED_UNTIL: f64 = 0.9;
const SERVED_UNTIL: f64 = 0.95;

/// A statement of a lane may take as long, however short the lease is: a guess for a machine that is busy with other
/// things.
const LANE_PATIENCE_MIN: Duration = Duration::from_secs(5);

/// How long readiness believes the last answer of PostgreSQL. Instances say that they live every second or so.
const POSTGRES_SILENCE: Duration = Duration::from_secs(15);

/// The same for Kafka, which is asked every five seconds, and which may be asked about many topics in between.
const KAFKA_SILENCE: Duration = Duration::from_secs(60);

/// Before the start is tried again after PostgreSQL refused it: first and longest wait.
const REFUSED_WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The same for the thread of the consumer, which may fold for as long as a statement may take.
const CONSUMER_SILENCE: Duration = Duration::from_secs(90);

/// Everything that `run` may run, built and not yet started.
pub struct App {
    config: Config,
    instance: Uuid,
    name: String,
    database: Database,
    metrics: Metrics,
    health: Health,
    ack_tap: Option<AckTap>,
    projections: Vec<Projection>,
}

impl App {
    /// Builds from checked settings. Connects to nothing yet.
    ///
    /// Errors: a certificate, a URL, a librdkafka setting or the file of a projection that cannot be used.
    pub fn build(config: Config) -> Result<Self> {
        let database = Database::of(&config)?;
        let instance = Uuid::new_v4();
        let name = config.run.instance.clone().unwrap_or_else(|| default_instance_name(instance));
        let projections = match (config.consumer.enabled, config.projection.is_empty()) {
            (false, _) => Vec::new(),
            (true, true) => vec![Projection::product_metrics()],
            (true, false) => config.projection.iter().map(Projection::load).collect::<Result<_>>()?,
        };
        let (metrics, health) = (Metrics::new(), Health::default());
        Ok(Self { config, instance, name, database, metrics, health, ack_tap: None, projections })
    }

    /// Calls `tap` with the ids of each acknowledged batch, for measuring.
    #[must_use]
    pub fn with_ack_tap(mut self, tap: AckTap) -> Self {
        self.ack_tap = Some(tap);
        self
    }

    /// Name of this instance in logs and in `outbox_instances`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs until `stop` is cancelled and everything in hand is settled, or until a part fails; then the rest stops
    /// too.
    pub async fn run(self, stop: CancellationToken) -> Result<()> {
        Arc::new(self).run_parts(stop).await
    }

    async fn run_parts(self: Arc<Self>, stop: CancellationToken) -> Result<()> {
        // Before the server answers, and until the parts have checks of their own: with none at all it would be ready.
        let starting = self.health.check("schema");
        // First, so that a port that is taken ends the start before anything else begins.
        let server = match self.config.admin.enabled {
            true => Some(admin::Server::bind(&self.config.admin, self.health.clone(), self.metrics.clone()).await?),
            false => None,
        };
        let drained = CancellationToken::new();
        let last = self.config.run.shutdown_timeout.mul_f64(SERVED_UNTIL);
        let mut admin = Supervisor::new(drained.clone());
        if let Some(server) = server {
            self.keep_serving(&mut admin, server);
        }
        let serve = async {
            tokio::select! {
                served = admin.wait() => served,
                // A client that does not read its answer must not keep the process.
                () = async {
                    stop.cancelled().await;
                    tokio::time::sleep(last).await;
                } => Ok(()),
            }
        };
        // The server answers from the wait for PostgreSQL to the end of the drain: not ready, but alive.
        let work = async {
            let outcome = self.work(starting, stop.clone()).await;
            drained.cancel();
            outcome
        };
        let (outcome, served) = tokio::join!(work, serve);
        outcome.and(served)
    }

    fn keep_serving(self: &Arc<Self>, supervisor: &mut Supervisor, server: admin::Server) {
        let (app, bound) = (Arc::clone(self), Mutex::new(Some(server)));
        supervisor.keep(self.part("admin", ends::never), move |Attempt { stop, .. }| {
            let (app, bound) = (Arc::clone(&app), bound.lock().unwrap_or_else(PoisonError::into_inner).take());
            Box::pin(async move {
                let server = match bound {
                    Some(server) => server,
                    None => admin::Server::bind(&app.config.admin, app.health.clone(), app.metrics.clone()).await?,
                };
                server.run(stop).await
            })
        });
    }

    fn part(&self, name: &'static str, ends: fn(Code) -> bool) -> Part {
        Part { name, health: self.health.clone(), ends }
    }

    async fn work(self: &Arc<Self>, starting: Check, stop: CancellationToken) -> Result<()> {
        self.try_out_clients()?;
        if !self.prepare_schema(&starting, &stop).await? {
            return Ok(());
        }
        let mut supervisor = Supervisor::new(stop.clone());
        if self.config.relay.enabled {
            let app = Arc::clone(self);
            supervisor.keep(self.part("relay", ends::by_relay), move |attempt| {
                let app = Arc::clone(&app);
                Box::pin(async move {
                    let _gauges = app.metrics.begin("relay");
                    let parts = app.relay_parts(&attempt)?;
                    drop(attempt.starting);
                    Box::pin(relay::run(parts, attempt.stop)).await
                })
            });
            let app = Arc::clone(self);
            supervisor.keep(self.part("partitions", ends::never), move |Attempt { stop, .. }| {
                let app = Arc::clone(&app);
                Box::pin(async move {
                    let _gauges = app.metrics.begin("partitions");
                    let Config { cleanup, outbox, .. } = &app.config;
                    let pool = app.database.pool(Role::Cleanup, PARTITION_CONNECTIONS);
                    partitions::run(cleanup.clone(), outbox.partition_rows, pool, app.metrics.clone(), stop).await
                })
            });
            if self.config.cleanup.enabled {
                let app = Arc::clone(self);
                supervisor.keep(self.part("cleanup", ends::never), move |Attempt { stop, .. }| {
                    Box::pin(Arc::clone(&app).clean(cleanup::What::Everything, stop))
                });
            }
        }
        if self.config.consumer.enabled && !self.config.relay.enabled && self.config.cleanup.enabled {
            let app = Arc::clone(self);
            supervisor.keep(self.part("cleanup", ends::never), move |Attempt { stop, .. }| {
                Box::pin(Arc::clone(&app).clean(cleanup::What::Handled, stop))
            });
        }
        if self.config.consumer.enabled {
            let app = Arc::clone(self);
            supervisor.keep(self.part("consumer", ends::never), move |attempt| {
                let app = Arc::clone(&app);
                Box::pin(async move {
                    let _gauges = app.metrics.begin("consumer");
                    tokio::select! {
                        () = attempt.stop.cancelled() => return Ok(()),
                        passes = preflight::consumer_passes(&app.config, &app.database) => passes?,
                    }
                    let consumer = app.consumer(&attempt);
                    let (admin, board) = (Admin::new(&app.config.kafka)?, consumer.status().board().clone());
                    drop(attempt.starting);
                    tokio::select! {
                        ended = consumer.run(attempt.stop.clone()) => ended,
                        // Ends with the consumer.
                        () = watch::topics(admin, app.config.consumer.topics.clone(), board) => Ok(()),
                    }
                })
            });
        }
        // Each part has a check by now.
        drop(starting);
        let (health, stopping) = (self.health.clone(), stop.clone());
        supervisor.spawn("readiness", async move {
            stopping.cancelled().await;
            health.stopping();
            Ok(())
        });
        supervisor.wait_at_most(self.config.run.shutdown_timeout.mul_f64(DRAINED_UNTIL)).await
    }

    async fn clean(self: Arc<Self>, what: cleanup::What, stop: CancellationToken) -> Result<()> {
        let _gauges = self.metrics.begin("cleanup");
        let pool = self.database.pool(Role::Cleanup, CLEANER_CONNECTIONS);
        cleanup::run(self.config.cleanup.clone(), what, pool, self.metrics.clone(), stop).await
    }

    /// Settings that librdkafka refuses end the start, before anything waits.
    fn try_out_clients(&self) -> Result<()> {
        let Config { relay, consumer, kafka, .. } = &self.config;
        let record_bytes_max = relay.max_record_bytes.as_u64();
        if relay.enabled {
            client_config::try_out(&client_config::producer(kafka, &self.name, record_bytes_max))?;
            if relay.delivery == Delivery::ExactlyOnce {
                client_config::try_out(&client_config::transactional(kafka, &self.name, record_bytes_max))?;
            }
        }
        if consumer.enabled {
            client_config::try_out(&client_config::common(kafka, &self.name))?;
        }
        Ok(())
    }

    /// Waits for PostgreSQL and brings the schema up to date, if it may. False when the stop came first.
    async fn prepare_schema(&self, check: &Check, stop: &CancellationToken) -> Result<bool> {
        if !self.config.relay.enabled && !self.config.consumer.enabled {
            return Ok(true);
        }
        let (mut backoff, mut refused) = (Backoff::for_connection(), Backoff::new(REFUSED_WAIT.0, REFUSED_WAIT.1));
        loop {
            let prepare = async {
                self.migrate().await?;
                preflight::relay_passes(&self.config, &self.database).await?;
                if self.config.relay.enabled { self.examine().await } else { Ok(()) }
            };
            let prepared = tokio::select! {
                () = stop.cancelled() => return Ok(false),
                prepared = prepare => prepared,
            };
            let wait = match prepared {
                Ok(()) => return Ok(true),
                Err(error) if ends::at_start(error.code()) => return Err(error),
                Err(error) if error.code() == Code::PostgresUnreachable => {
                    check.failing(error.to_string());
                    tracing::warn!(error = %error.chain(), "waiting for PostgreSQL");
                    backoff.next_wait()
                }
                Err(error) => {
                    let (code, help) = (error.code().as_str(), error.hint_text().unwrap_or_default());
                    check.failing(format!("{error} ({code})"));
                    tracing::error!(code, error = %error.chain(), help, "PostgreSQL is not ready for the relay; will retry");
                    refused.next_wait()
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Refuses an outbox on which the relay could not keep its promises, before anything is taken or sent.
    async fn examine(&self) -> Result<()> {
        let pool = self.database.pool(Role::Admin, 1);
        if let Some((what, fix)) = barrier::sequence(&pool).await?.fault() {
            let hint =
                format!("events would get ids below those that were published before them, and be passed over; {fix}");
            return Err(Error::new(Code::IdsOutOfTurn, what).hint(hint));
        }
        home::settle_in(&pool).await?;
        // Before the cleaner goes by notes of ids that are drawn again now.
        restart::begin_again(&pool, self.instance, Restart::Beyond).await?;
        Ok(())
    }

    async fn migrate(&self) -> Result<()> {
        let all = migrations::status(&self.database).await?;
        let missing = all.iter().filter(|migration| migration.state == State::Pending).count();
        if missing == 0 {
            return match migrations::trouble(&all) {
                // A newer version keeps older ones out by its own migrations, where they cannot work beside it.
                Some(newer) if all.iter().all(|migration| migration.state != State::Changed) => {
                    tracing::warn!(error = %newer.chain(), "the database was migrated by a newer version");
                    Ok(())
                }
                Some(error) => Err(error),
                None => Ok(()),
            };
        }
        if !self.config.database.auto_migrate {
            return Err(Error::new(
                Code::SchemaOutdated,
                format!("{missing} migrations are pending and database.auto_migrate is off"),
            )
            .hint("run: outbox-relay migrate up"));
        }
        let applied = migrations::up(&self.database, self.config.outbox.shards).await?;
        tracing::info!(migrations = applied.len(), "database schema is up to date");
        Ok(())
    }

    fn consumer(&self, attempt: &Attempt) -> Consumer {
        let Config { consumer, kafka, run, .. } = &self.config;
        let client = client_config::common(kafka, &format!("{}-{}-consumer", run.deployment, self.name));
        let mut lost = LostBrokers::new(client.clone());
        let lost = Box::new(move |down| lost.look(down));
        let (projections, metrics) = (self.projections.clone(), self.metrics.clone());
        let consumer = Consumer::new(&self.database, client, lost, consumer.clone(), projections, metrics)
            .refreshed_by(client_config::fresh)
            .heard_by(attempt.health.heartbeat("consumer", failpoint::part_silence(PART_SILENCE)));
        consumer.status().report_to(attempt.health.fresh_check("consumer", CONSUMER_SILENCE), attempt.health.notes());
        consumer
    }

    fn relay_parts(&self, attempt: &Attempt) -> Result<relay::Parts> {
        let health = &attempt.health;
        // What an earlier attempt had is taken over from it as from any other instance: its epochs end with its leases.
        let instance = if attempt.number == 1 { self.instance } else { Uuid::new_v4() };
        let Config { relay, retry, reprocess, dead_letter, routing, headers, kafka, run, database, .. } = &self.config;
        let lease_pool = self.database.pool(Role::Lease, LEASE_CONNECTIONS);
        // A statement that lasts longer than half a lease leaves no time to find the row that it is stuck at.
        let lane_database = self.database.clone().patient_for((relay.lease / 2).max(LANE_PATIENCE_MIN));
        let lane_pool = lane_database.pool(Role::Lane, usize::from(database.pool_size.get()));
        let client_id = format!("{}-{}", run.deployment, self.name);
        let record_bytes_max = relay.max_record_bytes.as_u64();
        let kafka_admin = Admin::new(kafka)?;
        let client = client_config::producer(kafka, &client_id, record_bytes_max);
        let relay_health = relay_health(health, &self.metrics);
        let catalog = TopicCatalog::new(kafka_admin.clone(), relay.unknown_topic_grace);
        Ok(relay::Parts {
            outbox: PgOutbox::new(lane_pool, relay.lease, Arc::new(Policy::new(retry, dead_letter)?))
                .settling(settle_mode(relay)),
            leases: Leases::new(
                lease_pool.clone(),
                instance,
                self.name.clone(),
                relay.lease,
                relay.delivery == Delivery::ExactlyOnce,
            ),
            lease_pool,
            admin_pool: self.database.pool(Role::Admin, UPKEEP_CONNECTIONS),
            reprocess: reprocess.clone(),
            admin: kafka_admin,
            encoder: Encoder::new(
                Routing::new(routing)?.with_dead_letters(dead_letter)?,
                headers,
                &run.deployment,
                record_bytes_max,
            ),
            publisher: PublisherSettings {
                client,
                publish_timeout: relay.publish_timeout,
                partitions: catalog.partitions().clone(),
                name: String::new(),
            },
            transactions: (relay.delivery == Delivery::ExactlyOnce).then(|| TransactionSettings {
                client: client_config::transactional(kafka, &client_id, record_bytes_max),
                id_prefix: format!("{}.", run.deployment),
                reader: client_config::common(kafka, &format!("{client_id}-progress")),
                place: MarkerPlace {
                    topic: relay::progress::name_of(&run.deployment),
                    group: relay::progress::name_of(&run.deployment),
                    partition: 0,
                },
                publish_timeout: relay.publish_timeout,
                partitions: catalog.partitions().clone(),
                name: String::new(),
            }),
            catalog,
            client_id,
            metrics: self.metrics.clone(),
            heartbeat: health.heartbeat("relay", failpoint::part_silence(PART_SILENCE)),
            health: relay_health,
            ack_tap: self.ack_tap.clone(),
            shutdown_timeout: run.shutdown_timeout,
            settings: relay.clone(),
        })
    }
}

/// The checks of the relay, registered with its part of the process.
fn relay_health(health: &Health, metrics: &Metrics) -> RelayHealth {
    RelayHealth::new(
        [
            health.fresh_check("postgres", POSTGRES_SILENCE),
            health.fresh_check("kafka", KAFKA_SILENCE),
            health.check("ids"),
            health.check("outbox"),
        ],
        [health.notes(), health.notes(), health.notes(), health.notes()],
        health.waits("lanes"),
        metrics.clone(),
    )
}

fn settle_mode(relay: &RelayConfig) -> SettleMode {
    match (relay.tracking, relay.after_publish) {
        (Tracking::Watermark, _) => SettleMode::Watermark,
        (Tracking::Rows, AfterPublish::Delete) => SettleMode::Delete,
        (Tracking::Rows, AfterPublish::Mark) => SettleMode::Mark,
    }
}

/// Host and process, or a part of the instance's own id where the host has no name.
fn default_instance_name(instance: Uuid) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() {
        instance.simple().to_string()[..8].to_owned()
    } else {
        format!("{host}-{}", std::process::id())
    }
}

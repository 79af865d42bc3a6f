//! The one reader of snapshots.
//!
//! Each look asks a handful of statements. What waits is counted row by row, so that statement alone is spaced by how
//! long it takes; the rest reads an index entry per shard and per held key, and the newest rows. The history is never
//! counted: its size is an estimate.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::rates::Window;
use super::snapshot::{ConsumerLine, HeldLine, InstanceLine, Look, Snapshot};
use crate::broker::admin::Admin;
use crate::clock;
use crate::config::Config;
use crate::db::{Database, DbError, Pool};
use crate::error::Error;
use crate::measure::group::{self, GroupLag};
use crate::measure::{outbox, watch};
use crate::operations::lag::{self, OutboxLag};
use crate::operations::{Result, pause, shards};
use crate::outbox::inspect::live::{self, Instance, Progress};
use crate::outbox::inspect::{self, is_timeout};

/// Between two questions to Kafka.
const ASK_EVERY: Duration = Duration::from_secs(5);

/// Counting what waits may take this share of the time, one in so many.
const COUNTING_SHARE: u32 = 10;

/// Looks again and again, through outages.
pub struct Watch {
    reader: Reader,
    group: Group,
    limit: Duration,
    /// Nothing is known before the first success: a wrong address is an error and no outage.
    seen: bool,
    away_since: Option<String>,
}

impl Watch {
    /// Errors: settings that make no connection possible.
    pub fn new(settings: &Config, pool: Pool) -> Result<Self> {
        let group = Group::new(settings, pool.clone())?;
        let reader = Reader {
            pool,
            silence: settings.relay.lease,
            database: Database::of(settings)?.describe(),
            deployment: settings.run.deployment.clone(),
            delivery: settings.relay.delivery.as_str(),
            lease: settings.relay.lease,
            counted: None,
            count_again: Duration::ZERO,
            window: Window::default(),
        };
        // A server that is frozen acknowledges what it is sent, and says nothing.
        let limit = settings.database.statement_timeout + settings.database.connect_timeout;
        Ok(Self { reader, group, limit, seen: false, away_since: None })
    }

    /// Errors: all but an outage that comes after a first answer. Cancel safe.
    pub async fn look(&mut self) -> Result<Look> {
        let read = tokio::time::timeout(self.limit, self.reader.read());
        let answer = match self.group.beside(read).await {
            Ok(answer) => answer,
            Err(late) => Err(DbError::Unavailable(late.into())),
        };
        match answer {
            Ok(mut snapshot) => {
                (self.seen, self.away_since) = (true, None);
                self.group.add_to(&mut snapshot);
                Ok(Look::Ok(Box::new(snapshot)))
            }
            Err(error) if error.is_unavailable() && self.seen => {
                let at = now();
                let since = self.away_since.get_or_insert_with(|| at.clone()).clone();
                Ok(Look::Unreachable { at, since, error: Error::from(error).chain() })
            }
            Err(error) => Err(lag::not_counted(&self.reader.pool, error).await),
        }
    }
}

/// The group of the settings as Kafka has it: asked beside the looks, which do not wait for it.
struct Group {
    /// `None`: there is no consumer here, or nothing is said of Kafka.
    ask: Option<Box<dyn Fn() -> Asking + Send>>,
    asking: Option<Asking>,
    known: Option<Result<GroupLag, Error>>,
    ask_again: Duration,
}

type Asking = Pin<Box<dyn Future<Output = Result<GroupLag, Error>> + Send>>;

impl Group {
    fn new(settings: &Config, pool: Pool) -> Result<Self> {
        let ask: Option<Box<dyn Fn() -> Asking + Send>> =
            if settings.consumer.enabled && !settings.kafka.bootstrap_servers.trim().is_empty() {
                let (admin, settings) = (Admin::new(&settings.kafka)?, settings.clone());
                Some(Box::new(move || {
                    let (admin, settings, pool) = (admin.clone(), settings.clone(), pool.clone());
                    let group = settings.consumer.group.clone();
                    Box::pin(async move { group::lag(&settings, &pool, &admin, group).await })
                }))
            } else {
                None
            };
        Ok(Self { ask, asking: None, known: None, ask_again: Duration::ZERO })
    }

    /// Goes on with the question for as long as the look takes; the first look waits for the answer.
    async fn beside<T>(&mut self, look: impl Future<Output = T>) -> T {
        let Some(ask) = &self.ask else { return look.await };
        let asked = clock::monotonic();
        if self.asking.is_none() && asked >= self.ask_again {
            self.asking = Some(ask());
        }
        let first = self.known.is_none();
        let mut look = std::pin::pin!(look);
        let mut seen = None;
        while let Some(asking) = &mut self.asking {
            tokio::select! {
                found = &mut look, if seen.is_none() => {
                    seen = Some(found);
                    if !first {
                        break;
                    }
                }
                answer = asking => {
                    (self.known, self.asking) = (Some(answer), None);
                    self.ask_again = clock::monotonic() + ASK_EVERY;
                }
            }
        }
        match seen {
            Some(found) => found,
            None => look.await,
        }
    }

    fn add_to(&self, snapshot: &mut Snapshot) {
        match &self.known {
            None => {}
            Some(Ok(lag)) => {
                snapshot.waits.extend(lag.waits.iter().cloned());
                for line in snapshot.consumers.iter_mut().flatten().filter(|line| line.group == lag.group) {
                    let own = lag.partitions.iter().filter(|partition| partition.topic == line.topic);
                    // One that is not known makes the sum unknown; so does a topic without partitions.
                    line.behind = own.map(|partition| partition.lag).reduce(|one, other| Some(one? + other?)).flatten();
                }
            }
            Some(Err(error)) => snapshot.waits.push(watch::unreachable(error)),
        }
    }
}

fn now() -> String {
    clock::wall().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

struct Reader {
    pool: Pool,
    silence: Duration,
    database: String,
    deployment: String,
    delivery: &'static str,
    lease: Duration,
    /// With the moment.
    counted: Option<(OutboxLag, Duration)>,
    /// Not before this moment.
    count_again: Duration,
    window: Window,
}

impl Reader {
    async fn read(&mut self) -> Result<Snapshot, DbError> {
        let shards = shards::lines(&self.pool).await?;
        let instances = live::instances(&self.pool).await?;
        let held = live::held_keys(&self.pool).await?;
        let activity = live::activity(&self.pool).await?;
        let pauses = pause::in_force(&self.pool).await?;
        let progress = match live::consumers(&self.pool).await {
            Ok(progress) => Some(progress),
            Err(error) if error.is_denied() => None,
            Err(error) => return Err(error),
        };
        let waits = outbox::waits(&self.pool, self.silence).await?;
        self.count().await?;

        self.window.add(&activity, &shards, progress.as_deref().unwrap_or_default());
        let (outbox, counted_at) = self.counted.clone().unzip();
        Ok(Snapshot {
            at: now(),
            database: self.database.clone(),
            deployment: self.deployment.clone(),
            delivery: self.delivery,
            instances: instances.into_iter().map(|instance| self.instance(instance)).collect(),
            pauses,
            outbox,
            outbox_counted_seconds_ago: counted_at.map(|at| clock::monotonic().saturating_sub(at).as_secs_f64()),
            oldest_pending_seconds: shards.iter().filter_map(|shard| shard.oldest_pending_seconds).reduce(f64::max),
            rows_estimate: activity.rows,
            rates: self.window.rates(),
            shards,
            held_keys: held.into_iter().map(HeldLine::from).collect(),
            consumers: progress.map(|progress| consumers(&progress, &self.window)),
            waits,
        })
    }

    /// Counts what waits, if that is due.
    async fn count(&mut self) -> Result<(), DbError> {
        let started = clock::monotonic();
        if started < self.count_again {
            return Ok(());
        }
        let answer = inspect::backlog_by_topic(&self.pool).await;
        let ended = clock::monotonic();
        self.count_again = ended + ended.saturating_sub(started) * COUNTING_SHARE;
        match answer {
            Ok(topics) => self.counted = Some((OutboxLag::from(topics), ended)),
            // The rest can still be shown.
            Err(error) if is_timeout(&error) => self.counted = None,
            Err(error) => {
                self.count_again = Duration::ZERO;
                return Err(error);
            }
        }
        Ok(())
    }

    fn instance(&self, instance: Instance) -> InstanceLine {
        InstanceLine {
            alive: instance.silent < self.lease.as_secs_f64(),
            name: instance.name,
            version: instance.version,
            silent_seconds: instance.silent,
            up_seconds: instance.up,
            shards: instance.shards,
        }
    }
}

/// Partitions, which come in order, summed up by group and topic.
fn consumers(progress: &[Progress], window: &Window) -> Vec<ConsumerLine> {
    progress
        .chunk_by(|one, next| (&one.group, &one.topic) == (&next.group, &next.topic))
        .filter_map(|partitions| {
            let first = partitions.first()?;
            let behind = partitions.iter().filter_map(|at| Some(at.next_known?.saturating_sub(at.next_offset).max(0)));
            Some(ConsumerLine {
                group: first.group.clone(),
                topic: first.topic.clone(),
                partitions: partitions.len(),
                records_per_second: window.records_per_second(&first.group, &first.topic),
                behind_at_least: behind.reduce(i64::saturating_add),
                behind: None,
                idle_seconds: partitions.iter().map(|at| at.idle).fold(f64::INFINITY, f64::min).max(0.0),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_summed_up_by_group_and_topic_and_unknown_ends_are_left_out() {
        let at = |group: &str, topic: &str, partition, next_offset, next_known| Progress {
            group: group.to_owned(),
            topic: topic.to_owned(),
            partition,
            next_offset,
            idle: f64::from(partition) + 1.0,
            next_known,
        };
        let progress = [
            at("g", "a", 0, 10, Some(15)),
            at("g", "a", 1, 10, None),
            // Ahead of what the rows tell: others publish there too.
            at("g", "a", 2, 99, Some(7)),
            at("g", "b", 0, 10, None),
            at("h", "b", 0, 10, Some(10)),
        ];
        let lines = consumers(&progress, &Window::default());
        let told: Vec<_> = lines
            .iter()
            .map(|line| (line.group.as_str(), line.topic.as_str(), line.partitions, line.behind_at_least))
            .collect();
        assert_eq!(told, [("g", "a", 3, Some(5)), ("g", "b", 1, None), ("h", "b", 1, Some(0))]);
        assert_eq!((lines[0].idle_seconds, lines[0].records_per_second), (1.0, None));
    }
}

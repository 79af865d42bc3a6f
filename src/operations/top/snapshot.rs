//! What is known of the outbox at a moment.

use serde::Serialize;

use super::rates::Rates;
use crate::operations::lag::OutboxLag;
use crate::operations::pause::PauseLine;
use crate::operations::shards;
use crate::outbox::inspect::live::HeldKeys;
use crate::signals::Wait;

/// The outbox at a moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// By the clock of this host.
    pub at: String,
    /// Host, port and name.
    pub database: String,
    pub deployment: String,
    /// As this command's settings say.
    pub delivery: &'static str,
    pub instances: Vec<InstanceLine>,
    pub pauses: Vec<PauseLine>,
    /// As in `lag`; exact when it was counted. `null` while it takes longer than `database.statement_timeout`.
    pub outbox: Option<OutboxLag>,
    /// How old these counts are.
    pub outbox_counted_seconds_ago: Option<f64>,
    /// Of the oldest PENDING row, as of this moment.
    pub oldest_pending_seconds: Option<f64>,
    /// All rows, finished ones too, as PostgreSQL's statistics have it.
    pub rows_estimate: i64,
    /// `null` in the first snapshot.
    pub rates: Option<Rates>,
    pub shards: Vec<shards::Line>,
    pub held_keys: Vec<HeldLine>,
    /// `null`: the role may not read `consumer_partitions`.
    pub consumers: Option<Vec<ConsumerLine>>,
    /// What keeps events from being published and folded, as in `lag`.
    pub waits: Vec<Wait>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InstanceLine {
    pub name: String,
    pub version: String,
    /// Its heartbeat is younger than `relay.lease`.
    pub alive: bool,
    pub silent_seconds: f64,
    pub up_seconds: f64,
    pub shards: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeldLine {
    pub reason: String,
    /// What they wait for, if that is a topic.
    pub topic: Option<String>,
    pub keys: i64,
    pub oldest_seconds: f64,
}

/// A consumer group in one topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConsumerLine {
    pub group: String,
    pub topic: String,
    pub partitions: usize,
    /// By how far the positions moved. `null` in the first snapshot.
    pub records_per_second: Option<f64>,
    /// Records up to the last one that the newest rows of the outbox are known to be published at, over the partitions
    /// they tell of. `null`: they tell nothing.
    pub behind_at_least: Option<i64>,
    /// As in `lag`, for the group of the settings. `null`: not known, which is not zero.
    pub behind: Option<i64>,
    /// Since any of its positions moved.
    pub idle_seconds: f64,
}

/// The outcome of one look.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Look {
    Ok(Box<Snapshot>),
    /// PostgreSQL did not answer, nor has it since that time.
    Unreachable {
        at: String,
        since: String,
        error: String,
    },
}

impl From<HeldKeys> for HeldLine {
    fn from(held: HeldKeys) -> Self {
        Self { reason: held.reason, topic: held.topic, keys: held.keys, oldest_seconds: held.oldest }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::operations::lag::TopicLag;
    use crate::signals::Situation;

    fn outbox() -> OutboxLag {
        let topic = |topic: Option<&str>, pending, failed| TopicLag {
            topic: topic.map(str::to_owned),
            pending,
            failed,
            held: 4,
            oldest_pending_seconds: Some(0.84),
        };
        OutboxLag {
            pending: 3_120,
            failed: 2,
            held: 8,
            oldest_pending_seconds: Some(0.84),
            topics: vec![topic(Some("order-events"), 3_000, 2), topic(None, 120, 0)],
        }
    }

    /// A busy outbox with as many shards as asked for.
    pub(crate) fn snapshot(shards: i16) -> Snapshot {
        Snapshot {
            at: "2026-05-01T12:00:00Z".to_owned(),
            database: "db:5432/shop".to_owned(),
            deployment: "shop".to_owned(),
            delivery: "at-least-once",
            instances: vec![InstanceLine {
                name: "relay-a".to_owned(),
                version: "0.1.0".to_owned(),
                alive: true,
                silent_seconds: 0.5,
                up_seconds: 3_700.0,
                shards: i64::from(shards),
            }],
            pauses: vec![PauseLine {
                topic: "catalog-events".to_owned(),
                paused_at: "2026-05-01T11:00:00Z".to_owned(),
                by: "ann".to_owned(),
                reason: Some("upgrade".to_owned()),
            }],
            outbox: Some(outbox()),
            outbox_counted_seconds_ago: Some(0.0),
            oldest_pending_seconds: Some(0.84),
            rows_estimate: 1_234_567,
            rates: Some(Rates {
                over_seconds: 5.0,
                batches_per_second: 35.2,
                inserted_rows_per_second_estimate: 1_204.0,
                updated_rows_per_second_estimate: 1_190.4,
                deleted_rows_per_second_estimate: 0.0,
            }),
            shards: (0..shards)
                .map(|shard| shards::Line {
                    shard,
                    owner: (shard % 4 != 3).then(|| "relay-a".to_owned()),
                    epoch: 7,
                    lease_left_seconds: (shard % 4 != 3).then_some(14.2),
                    batch: 1_000 + i64::from(shard),
                    in_flight: 250,
                    low_id: 17,
                    held_keys: 1,
                    oldest_pending_seconds: Some(0.84),
                })
                .collect(),
            held_keys: vec![
                HeldLine { reason: "failed".to_owned(), topic: None, keys: 2, oldest_seconds: 200.0 },
                HeldLine {
                    reason: "paused".to_owned(),
                    topic: Some("catalog-events".to_owned()),
                    keys: 6,
                    oldest_seconds: 3_600.0,
                },
            ],
            consumers: Some(vec![ConsumerLine {
                group: "metrics".to_owned(),
                topic: "order-events".to_owned(),
                partitions: 3,
                records_per_second: Some(900.0),
                behind_at_least: Some(41),
                behind: None,
                idle_seconds: 0.1,
            }]),
            waits: vec![Wait::new(Situation::OpenTransaction).of_partition("order-events", 2)],
        }
    }

    #[test]
    fn a_line_of_json_says_whether_postgresql_answered() {
        let good = serde_json::to_value(Look::Ok(Box::new(snapshot(2)))).unwrap();
        assert_eq!((&good["state"], &good["outbox"]["pending"]), (&"ok".into(), &3_120.into()));
        assert_eq!(good["shards"][0]["owner"], "relay-a");
        let away =
            Look::Unreachable { at: String::new(), since: "2026-05-01T12:00:00Z".to_owned(), error: String::new() };
        let away = serde_json::to_value(away).unwrap();
        assert_eq!((&away["state"], &away["since"]), (&"unreachable".into(), &"2026-05-01T12:00:00Z".into()));
    }
}

//! Flags of `replay`.

use clap::{ArgGroup, Args};
use uuid::Uuid;

use super::operate::Consent;
use super::values::{self, When};

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("filter").multiple(true).args(["from", "to", "aggregate_type", "aggregate_id", "key", "topic", "event_type"]))]
#[command(group = ArgGroup::new("which").required(true).multiple(true).args(["id", "resume", "from", "to", "aggregate_type", "aggregate_id", "key", "topic", "event_type"]))]
#[command(after_help = "\
Examples:
  outbox-relay replay --from 2026-05-01 --to 2026-05-02 --topic order-events --dry-run
  outbox-relay replay --key order-42 --yes --reason \"the shop lost it\"
  outbox-relay replay --id 17,18 --to-topic order-events-repair --yes
  outbox-relay replay --event-type OrderPaidEvent --from 7d --rate 500 --yes
  outbox-relay replay --resume 0198f2c4-6a52-7c1e-9d1b-2f6b5c0a7e11

Copies of PUBLISHED events are appended to the outbox in their original order and published after all pending events; existing rows do
not change. A copy keeps event_id (unless --new-ids), key, payload, headers and created_at, and its record carries outbox-replay-of.
A copy keeps the timestamp of its event. If a topic would delete it at once (retention.ms), nothing is copied, unless --ignore-retention.
All filters must match. Copies from earlier replays and dead letters are left out. --id also selects DISCARDED events and copies.
Times are RFC 3339, a date (midnight UTC), or an age: 15m, 2h, 7d.")]
pub struct ReplayArgs {
    /// Only the rows with these ids
    #[arg(long, value_name = "ID", value_delimiter = ',', conflicts_with = "filter", value_parser = clap::value_parser!(i64).range(1..))]
    pub id: Vec<i64>,

    /// Only events created at or after this time
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub from: Option<When>,

    /// Only events created before this time
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub to: Option<When>,

    /// Only this aggregate type
    #[arg(long, value_name = "TYPE")]
    pub aggregate_type: Option<String>,

    /// Only this aggregate
    #[arg(long, value_name = "ID")]
    pub aggregate_id: Option<String>,

    /// Only events with this key (partition_key, else aggregate_id)
    #[arg(long)]
    pub key: Option<String>,

    /// Only rows that name this topic
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,

    /// Only this event type
    #[arg(long, value_name = "TYPE")]
    pub event_type: Option<String>,

    /// Publish the copies to this topic instead of each original's topic
    #[arg(long, value_name = "NAME")]
    pub to_topic: Option<String>,

    /// Copies per second [default: unlimited]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..=1_000_000))]
    pub rate: Option<i32>,

    /// Give the copies a new event_id, so that consumers treat them as new events
    #[arg(long)]
    pub new_ids: bool,

    /// Start over even if the same replay is unfinished
    #[arg(long)]
    pub again: bool,

    /// Continue even if Kafka would delete or reject some copies at once because their events are too old for the topic
    #[arg(long)]
    pub ignore_retention: bool,

    #[command(flatten)]
    pub consent: Consent,

    /// Continue an interrupted replay
    #[arg(long, value_name = "UUID", conflicts_with_all = ["id", "filter", "to_topic", "new_ids", "again"])]
    pub resume: Option<Uuid>,
}

//! Flags of the commands that act on events that failed or wait, and of pauses.

use clap::Args;
use uuid::Uuid;

use super::values::{self, EventRef, When};
use crate::event::{EventStatus, FailureClass};

/// Conditions on events; all of them must hold.
#[derive(Debug, Clone, Default, Args)]
pub struct EventFilter {
    /// Only the rows with this event_id
    #[arg(long, value_name = "UUID")]
    pub event_id: Option<Uuid>,

    /// Only events with this key (partition_key, else aggregate_id)
    #[arg(long)]
    pub key: Option<String>,

    /// Only rows that name this topic
    #[arg(long)]
    pub topic: Option<String>,

    /// Only this event type
    #[arg(long, value_name = "TYPE")]
    pub event_type: Option<String>,

    /// Only this aggregate type
    #[arg(long, value_name = "TYPE")]
    pub aggregate_type: Option<String>,

    /// Only this aggregate
    #[arg(long, value_name = "ID")]
    pub aggregate_id: Option<String>,

    /// Only this correlation id
    #[arg(long, value_name = "ID")]
    pub correlation_id: Option<String>,

    /// Only events created at or after this time
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub since: Option<When>,

    /// Only events created before this time
    #[arg(long, value_name = "TIME", value_parser = values::when)]
    pub until: Option<When>,
}

/// What every command takes that changes something by hand.
#[derive(Debug, Clone, Args)]
pub struct Consent {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,

    /// Why, for outbox_audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay events retry 1042
  outbox-relay events retry --class unknown-topic --topic order-events --yes
  outbox-relay events discard --key order-42 --status failed,held --reason 'test data'

Without ids the filters choose among FAILED events, or the states that --status names; all filters must match.
A retry gives all attempts again. When its key is held by an earlier failed event, that one is tried again first, because order holds.
A discarded event is never published; what waited behind it goes on. Events that are PUBLISHED or PENDING are never touched.")]
pub struct RedoArgs {
    /// The ids of rows, or their event_ids
    #[arg(value_name = "ID|EVENT_ID", value_parser = values::event_ref)]
    pub events: Vec<EventRef>,

    /// All FAILED events
    #[arg(long, conflicts_with = "events")]
    pub all: bool,

    /// failed, held, or both
    #[arg(long, value_name = "STATUS", value_enum, ignore_case = true, value_delimiter = ',')]
    pub status: Vec<EventStatus>,

    /// Only events that failed with this class of error
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(FailureClass::names()))]
    pub class: Option<String>,

    #[command(flatten)]
    pub filter: EventFilter,

    #[command(flatten)]
    pub consent: Consent,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay events trace 1042
  outbox-relay events trace 0198f2c4-0000-7000-8000-000000000001 -o json
  outbox-relay events trace --correlation-id checkout-77

Rows of a replay and dead letters carry the event_id of their original, so they stand in the same history. What consumers did is known
for groups of this database.")]
pub struct EventsTraceArgs {
    /// The id of a row, or an event_id
    #[arg(value_name = "ID|EVENT_ID", value_parser = values::event_ref, required_unless_present = "correlation_id")]
    pub event: Option<EventRef>,

    /// All events with this correlation id
    #[arg(long, value_name = "ID", conflicts_with = "event")]
    pub correlation_id: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay pause --reason 'broker upgrade'
  outbox-relay pause --topic order-events
  outbox-relay resume --topic order-events

Takes effect within about a second, on every instance, and outlives restarts. While a topic is paused the keys of its events wait,
with everything behind them, so that order holds; all other keys go on. `status` of what waits is HELD.")]
pub struct PauseArgs {
    /// Only this topic [default: everything]
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,

    /// List what is paused and say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// Why, for outbox_audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

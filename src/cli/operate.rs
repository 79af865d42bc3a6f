//! Flags of the commands that act on failed or waiting events, and of pauses.

use clap::Args;
use uuid::Uuid;

use super::values::{self, EventRef, When};
use crate::event::{EventStatus, FailureClass};

/// Conditions on events; all of them must match.
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

/// Flags of every command that changes something.
#[derive(Debug, Clone, Args)]
pub struct Consent {
    /// Print what would be done without doing it
    #[arg(long)]
    pub dry_run: bool,

    /// Do not ask for confirmation
    #[arg(long, short)]
    pub yes: bool,

    /// Reason, recorded in outbox_audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outbox-relay events retry 1042
  outbox-relay events retry --class unknown-topic --topic order-events --yes
  outbox-relay events discard --key order-42 --status failed,held --reason 'test data'

Without ids, the filters select from FAILED events, or from the statuses in --status; all filters must match.
A retry starts with a full set of attempts. If an earlier failed event holds the key, that event is retried first, to keep the order.
A discarded event is never published; the events behind it continue. PUBLISHED and PENDING events are never touched.")]
pub struct RedoArgs {
    /// Row ids or event_ids
    #[arg(value_name = "ID|EVENT_ID", value_parser = values::event_ref)]
    pub events: Vec<EventRef>,

    /// All FAILED events
    #[arg(long, conflicts_with = "events")]
    pub all: bool,

    /// failed, held, or both
    #[arg(long, value_name = "STATUS", value_enum, ignore_case = true, value_delimiter = ',')]
    pub status: Vec<EventStatus>,

    /// Only events that failed with this error class
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

Replay copies and dead letters carry the event_id of their original, so they appear in the same history. What consumers did is known
only for groups in this database.")]
pub struct EventsTraceArgs {
    /// Row id or event_id
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

A pause takes effect within about a second on every instance and survives restarts. While a topic is paused, the keys of its events are
held, with all later events of those keys, so that order is kept; all other keys continue. Waiting events have the status HELD.")]
pub struct PauseArgs {
    /// Only this topic [default: everything]
    #[arg(long, value_name = "NAME")]
    pub topic: Option<String>,

    /// List what is paused and print what would be done without doing it
    #[arg(long)]
    pub dry_run: bool,

    /// Reason, recorded in outbox_audit
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

-- Events that cannot be delivered, and what operators do: retries, dead letters, replays, pauses.

alter table outbox_events
  -- When the row became FAILED: a failure is as old as this, not as its event.
  add column failed_at timestamptz,
  -- The row is a copy that a replay appended: the id of the row it was made from. No foreign key, the original may be cleaned up.
  add column replay_of bigint,
  -- The row is the dead letter of this one, and goes to a dead-letter topic.
  add column dead_letter_of bigint,
  -- FAILED, and the dead letter is still to be written, to this topic. Not written by the lane itself: the lock barrier leaves the
  -- lanes' transactions out because lanes never insert.
  add column dead_letter_to text,
  -- The topic that a failed event was for; of rows that name none, routing knew it.
  add column dead_letter_from text;
update outbox_events set failed_at = now() where status = 'FAILED';
create index outbox_events_dead_letter_due on outbox_events (id) where dead_letter_to is not null;
create index outbox_events_dead_letter_of on outbox_events (dead_letter_of) where dead_letter_of is not null;

alter table outbox_held_keys
  -- The topic that the key waits for: one that is paused, or that does not exist.
  add column topic text,
  -- The key is being released in portions: its events up to this id may go, later ones still wait.
  add column released_to bigint,
  drop constraint outbox_held_keys_reason,
  add constraint outbox_held_keys_reason check (reason in ('failed', 'retry', 'delayed', 'paused', 'no-topic'));
-- What waits for a topic, to be found when the topic is there or goes on.
create index outbox_held_keys_topic on outbox_held_keys (reason, topic) where topic is not null;

-- What an operator has paused: a topic, or '*' for everything. No topic can have that name.
create table outbox_pauses (
  topic text primary key,
  paused_at timestamptz not null default now(),
  actor text not null,
  reason text
);

-- Why somebody did something by hand.
alter table outbox_audit add column reason text;

create or replace view outbox_claimable with (security_invoker = true) as
select id, shard, status, event_id, aggregate_type, aggregate_id, event_type, event_version, topic,
  outbox_key_of(partition_key, aggregate_id) as key,
  octet_length(coalesce(partition_key, aggregate_id)) as key_bytes,
  payload, payload_raw, headers, correlation_id, causation_id, source, traceparent,
  -- Kafka knows no time before 1970, and neither it nor arithmetic knows infinity.
  least(greatest(created_at, timestamptz '1970-01-01 00:00:00Z'), timestamptz '9999-12-01 00:00:00Z') as created_at,
  case when available_at > now()
    then extract(epoch from least(available_at, now() + interval '100 years') - now())::float8
  end as due_in,
  (case
    when payload is null then coalesce(octet_length(payload_raw), 0)
    when pg_column_compression(payload) is null then pg_column_size(payload)
    else octet_length(payload::text)
  end
  + coalesce(pg_column_size(headers), 0) + coalesce(octet_length(aggregate_id), 0) + coalesce(octet_length(partition_key), 0)
  + octet_length(event_type) + coalesce(octet_length(aggregate_type), 0) + coalesce(octet_length(topic), 0)
  + coalesce(octet_length(correlation_id), 0) + coalesce(octet_length(causation_id), 0)
  + coalesce(octet_length(source), 0) + coalesce(octet_length(traceparent), 0))::bigint as bytes,
  replay_of, dead_letter_of
from outbox_events;

-- Writes a copy of the event of trial_event.sql as a replay does, in the same transaction. $1 bigint: its id.
insert into outbox_events (event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload, payload_raw,
  headers, correlation_id, causation_id, source, traceparent, created_at, available_at, replay_of)
select event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload, payload_raw, headers, correlation_id,
  causation_id, source, traceparent, created_at, now(), id
from outbox_events where id = $1

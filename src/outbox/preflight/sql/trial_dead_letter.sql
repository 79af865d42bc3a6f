-- Writes the dead letter of the event of trial_event.sql, in the same transaction. $1 bigint: its id. $2 text: the
-- dead-letter topic.
insert into outbox_events (event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload, payload_raw,
  headers, correlation_id, causation_id, source, traceparent, created_at, dead_letter_of)
select event_id, aggregate_type, aggregate_id, event_type, event_version, $2, partition_key, payload, payload_raw, headers, correlation_id,
  causation_id, source, traceparent, created_at, id
from outbox_events where id = $1

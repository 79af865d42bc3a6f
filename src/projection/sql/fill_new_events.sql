-- Fills the relation that projections read. $1 text: topic. $2 int: partition. Then one array element per event:
-- $3 int[] ordinals, $4 uuid[] ids, $5 text[] types, $6 text[] aggregate types, $7 text[] aggregate ids,
-- $8 int[] versions, $9 bigint[] offsets, $10 text[] keys, $11 text[] payloads (JSON), $12 text[] headers (JSON),
-- $13 timestamptz[] event times, $14 text[] correlation ids.
-- A payload that jsonb refuses fails the statement. Not to be repeated in one transaction without clear_new_events.sql.
insert into new_events (
  ordinal, event_id, event_type, aggregate_type, aggregate_id, event_version, topic, partition, "offset", key, payload,
  headers, event_time, correlation_id
)
select
  e.ordinal, e.event_id, e.event_type, e.aggregate_type, e.aggregate_id, e.event_version, $1, $2, e.log_offset, e.key,
  e.payload::jsonb, e.headers::jsonb, e.event_time, e.correlation_id
from unnest(
  $3::int[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::int[], $9::bigint[], $10::text[], $11::text[],
  $12::text[], $13::timestamptz[], $14::text[]
) as e (
  ordinal, event_id, event_type, aggregate_type, aggregate_id, event_version, log_offset, key, payload, headers,
  event_time, correlation_id
)

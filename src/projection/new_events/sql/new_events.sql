-- The relation that a projection reads: the events of one partition that are new to it, in the order of their offsets.
-- The statement of the projection takes the place of the last line (new_events.rs). $1 text: topic. $2 int: partition.
-- Then one array element per event: $3 int[] ordinals, $4 uuid[] ids, $5 text[] types, $6 text[] aggregate types, $7
-- text[] aggregate ids, $8 int[] versions, $9 bigint[] offsets, $10 text[] keys, $11 text[] payloads (JSON), $12 text[]
-- headers (JSON), $13 timestamptz[] event times, $14 text[] correlation ids. A payload that jsonb refuses fails the
-- statement. Not a table: one that lasts as long as its session would keep the database from forgetting old
-- transactions.
with new_events as materialized (
  select
    e.ordinal, e.event_id, e.event_type, e.aggregate_type, e.aggregate_id, e.event_version, $1::text as topic, $2::int as partition,
    e.log_offset as "offset", e.key, e.payload::jsonb as payload, e.headers::jsonb as headers, e.event_time, e.correlation_id
  from unnest(
    $3::int[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::int[], $9::bigint[], $10::text[], $11::text[], $12::text[],
    $13::timestamptz[], $14::text[]
  ) as e (
    ordinal, event_id, event_type, aggregate_type, aggregate_id, event_version, log_offset, key, payload, headers, event_time,
    correlation_id
  )
)
select ordinal from new_events

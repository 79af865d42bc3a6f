-- The same relation without any event, to see whether PostgreSQL takes a projection: its statement takes the place of
-- the last line. No parameters.
with new_events as materialized (
  select
    null::int as ordinal, null::uuid as event_id, null::text as event_type, null::text as aggregate_type, null::text as aggregate_id,
    null::int as event_version, null::text as topic, null::int as partition, null::bigint as "offset", null::text as key,
    null::jsonb as payload, null::jsonb as headers, null::timestamptz as event_time, null::text as correlation_id
  where false
)
select ordinal from new_events

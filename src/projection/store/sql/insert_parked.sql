-- Keeps events that cannot be folded, whole. $1 text: group. $2 text: topic. $3 int: partition. Then one array element
-- per event: $4 uuid[] ids, $5 text[] types, $6 bigint[] offsets, $7 bytea[] keys, $8 bytea[] values,
-- $9 text[] headers (JSON), $10 timestamptz[] record times, $11 text[] reasons. $12 text: projection that could not
-- fold them; null: none of the group has.
-- Running it again changes nothing.
insert into consumer_parked (
  consumer_group, event_id, event_type, topic, partition, "offset", key, value, headers, recorded_at, error, projection
)
select $1, e.event_id, e.event_type, $2, $3, e.log_offset, e.key, e.value, e.headers::jsonb, e.recorded_at, e.error, $12::text
from unnest(
  $4::uuid[], $5::text[], $6::bigint[], $7::bytea[], $8::bytea[], $9::text[], $10::timestamptz[], $11::text[]
) as e (event_id, event_type, log_offset, key, value, headers, recorded_at, error)
on conflict (consumer_group, event_id, projection) do nothing

-- Records events as handled. $1 text: group. $2 text: topic. $3 int: partition. Then one array element per event, no
-- event twice: $4 uuid[] ids, $5 text[] types, $6 text[] aggregate types, $7 text[] aggregate ids, $8 int[] versions,
-- $9 bigint[] offsets.
-- Returns the ids that are new; a second run returns none. In the order of the ids, so that two transactions with the
-- same events wait for each other instead of deadlocking.
insert into event_handled (
  consumer_group, event_id, event_type, aggregate_type, aggregate_id, event_version, topic, partition, "offset"
)
select $1, e.event_id, e.event_type, e.aggregate_type, e.aggregate_id, e.event_version, $2, $3, e.log_offset
from unnest($4::uuid[], $5::text[], $6::text[], $7::text[], $8::int[], $9::bigint[])
  as e (event_id, event_type, aggregate_type, aggregate_id, event_version, log_offset)
order by e.event_id
on conflict (consumer_group, event_id) do nothing
returning event_id

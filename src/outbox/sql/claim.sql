-- Claims the next events of shards, lowest id first, and locks them for this transaction.
-- $1 smallint[]: shards. $2 bigint[]: their low_id, where to begin, in the same order. $3 bigint: most rows of each. $4 bigint: most bytes of
-- one row; of a larger one only the key and the sizes are read. $5 bigint[]: the highest ids to claim, in the same order.
-- Returns the events of a shard in id order; the caller stops reading when it has as many bytes as it may. FOR UPDATE SKIP LOCKED never
-- skips in practice, since only the owner of a shard claims from it; it is the second belt under the lease. Changes nothing by itself, so it
-- can be run again.
-- With `shard = s.shard` the planner takes the primary key for the order of ids and reads the rows of all shards, published ones included.
-- The order of (shard, id) only the index of the PENDING rows has.
select id, event_id, event_type, event_version, aggregate_type, topic, key, key_bytes, bytes, created_at, due_in,
  case when bytes <= $4 then aggregate_id end as aggregate_id,
  case when bytes <= $4 then payload end as payload,
  case when bytes <= $4 then payload_raw end as payload_raw,
  case when bytes <= $4 then headers end as headers,
  case when bytes <= $4 then correlation_id end as correlation_id,
  case when bytes <= $4 then causation_id end as causation_id,
  case when bytes <= $4 then source end as source,
  case when bytes <= $4 then traceparent end as traceparent,
  replay_of, dead_letter_of, locked.shard
from unnest($1::smallint[], $2::bigint[], $5::bigint[]) as s(shard, low_id, ceiling)
cross join lateral (
  select * from outbox_claimable c
  where (c.shard, c.id) >= (s.shard, s.low_id) and c.shard <= s.shard and c.status = 'PENDING' and c.id <= s.ceiling
  order by c.shard, c.id limit $3
  for update skip locked
) locked

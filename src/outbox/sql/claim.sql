-- Claims the next events of a shard, lowest id first, and locks them for this transaction.
-- $1 smallint: shard. $2 bigint: low_id, where to begin. $3 bigint: most rows. $4 bigint: most bytes of one row; of a larger one only the
-- key and the sizes are read. $5 bigint: the highest id to claim.
-- Returns the events in id order; the caller stops reading when it has as many bytes as it may. FOR UPDATE SKIP LOCKED never skips in
-- practice, since only the owner of the shard claims from it; it is the second belt under the lease. Changes nothing by itself, so it can
-- be run again.
-- With `shard = $1` the planner takes the primary key for the order of ids and reads the rows of all shards, published ones included. The
-- order of (shard, id) only the index of the PENDING rows has.
select id, event_id, event_type, event_version, aggregate_type, topic, key, key_bytes, bytes, created_at, due_in,
  case when bytes <= $4 then aggregate_id end as aggregate_id,
  case when bytes <= $4 then payload end as payload,
  case when bytes <= $4 then payload_raw end as payload_raw,
  case when bytes <= $4 then headers end as headers,
  case when bytes <= $4 then correlation_id end as correlation_id,
  case when bytes <= $4 then causation_id end as causation_id,
  case when bytes <= $4 then source end as source,
  case when bytes <= $4 then traceparent end as traceparent,
  replay_of, dead_letter_of
from (
  select * from outbox_claimable
  where (shard, id) >= ($1, $2) and shard <= $1 and status = 'PENDING' and id <= $5
  order by shard, id limit $3
  for update skip locked
) locked

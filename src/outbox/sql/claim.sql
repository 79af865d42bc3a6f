-- Claims the next events of a shard, lowest id first, and locks them for this transaction.
-- $1 smallint: shard. $2 bigint: low_id, where to begin. $3 bigint: most rows. $4 bigint: most bytes of all rows; the
-- first row always fits. $5 bigint: most bytes of one row; of a larger one only the key and the sizes are read.
-- $6 bigint: the highest id to claim.
-- Returns the events in id order. FOR UPDATE SKIP LOCKED never skips in practice, since only the owner of the shard claims
-- from it; it is the second belt under the lease. Changes nothing by itself, so it can be run again.
select id, event_id, event_type, event_version, aggregate_type, topic, key, key_bytes, bytes, created_at, due_in,
  case when bytes <= $5 then aggregate_id end as aggregate_id,
  case when bytes <= $5 then payload end as payload,
  case when bytes <= $5 then payload_raw end as payload_raw,
  case when bytes <= $5 then headers end as headers,
  case when bytes <= $5 then correlation_id end as correlation_id,
  case when bytes <= $5 then causation_id end as causation_id,
  case when bytes <= $5 then source end as source,
  case when bytes <= $5 then traceparent end as traceparent,
  replay_of, dead_letter_of
from (
  select *, sum(least(bytes, $5)::int) over (order by id rows unbounded preceding) as bytes_upto
  from (
    select * from outbox_claimable
    where shard = $1 and status = 'PENDING' and id >= $2 and id <= $6
    order by id limit $3
    for update skip locked
  ) locked
) measured
where bytes_upto - least(bytes, $5) < $4
order by id

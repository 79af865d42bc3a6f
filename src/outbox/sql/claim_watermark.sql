-- Claims the next events of a shard whose progress is a watermark, lowest id first. It locks no row: published rows are not written to, and
-- no other instance claims from this shard while its row in outbox_shards is locked by fence.sql.
-- $1 to $6 as in claim.sql, $2 being above done_id. $7 bigint[]: published rows from $2 on that are still PENDING. $8 bigint: the last one
-- of these. Returns and bounds as in claim.sql. Changes nothing by itself.
-- `not in` over an uncorrelated subquery is a hash table, and rows behind the last published one do not look into it.
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
    where shard = $1 and status = 'PENDING' and id >= $2 and id <= $6 and (id > $8 or id not in (select unnest($7::bigint[])))
    order by id limit $3
  ) next
) measured
where bytes_upto - least(bytes, $5) < $4
order by id

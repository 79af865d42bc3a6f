-- Claims the next events of a shard whose progress is a watermark, lowest id first. It locks no row: published rows are not written to, and
-- no other instance claims from this shard while its row in outbox_shards is locked by fence.sql.
-- $1 smallint: shard. $2 bigint: low_id, above done_id. $3 bigint: most rows. $4 bigint: most bytes of one row; of a larger one only the key
-- and the sizes are read. $5 bigint: the highest id to claim. $6 bigint[]: published rows from $2 on that are still PENDING. $7 bigint: the
-- last one of these. Returns the events in id order; the caller stops reading when it has as many bytes as it may. Changes nothing by itself.
-- `not in` over an uncorrelated subquery is a hash table, and rows behind the last published one do not look into it.
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
    and (id > $7 or id not in (select unnest($6::bigint[])))
  order by shard, id limit $3
) next

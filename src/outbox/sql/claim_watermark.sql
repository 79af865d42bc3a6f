-- Claims the next events of shards whose progress is a watermark: what claim.sql claims, but for what is published. It locks no row: published
-- rows are not written to, and no other instance claims from a shard while its row in outbox_shards is locked by fence.sql.
-- $1 smallint[]: shards. $2 bigint[]: their low_id, above done_id, in the same order. $3 bigint: most rows of each. $4 bigint: most bytes of
-- one row. $5 bigint[]: the highest ids to claim, in the same order. $6 bigint[]: published rows of all these shards that are still PENDING.
-- $7 bigint: the last one of these. Changes nothing by itself.
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
  replay_of, dead_letter_of, next.shard
from unnest($1::smallint[], $2::bigint[], $5::bigint[]) as s(shard, low_id, ceiling)
cross join lateral (
  select * from outbox_claimable c
  where (c.shard, c.id) >= (s.shard, s.low_id) and c.shard <= s.shard and c.status = 'PENDING' and c.id <= s.ceiling
    and (c.id > $7 or c.id not in (select unnest($6::bigint[])))
  order by c.shard, c.id limit $3
) next

-- Claims the next events of several shards at once whose progress is a watermark: of each what claim_watermark.sql claims, for the reasons given
-- there. $1 smallint[]: shards. $2 bigint[]: their low_id, in the same order. $3 bigint: most rows of each. $4 bigint: most bytes of one row.
-- $5 bigint[]: the highest ids to claim, in the same order. $6 bigint[]: the published rows of all of them that are still PENDING. $7 bigint:
-- the last one of these. Returns the columns of claim.sql and the shard; the events of a shard in id order. Changes nothing by itself.
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

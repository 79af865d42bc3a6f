-- Marks what is published ahead of the watermark of each shard, so that no event that waits has a higher id than one that is published
-- without saying so. Run with the shards taken; a repeat finds nothing.
with ahead as (
  update outbox_shards s set ahead_ids = '{}'
  from (select shard, ahead_ids from outbox_shards where cardinality(ahead_ids) > 0) b
  where s.shard = b.shard
  returning b.ahead_ids as ids
)
update outbox_events e set status = 'PUBLISHED', published_at = now()
from (select unnest(ids) as id from ahead) a
where e.id = a.id and e.status || '' = 'PENDING'

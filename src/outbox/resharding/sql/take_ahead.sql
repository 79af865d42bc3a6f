-- Takes what is published ahead of the watermark of each shard, so that it can be marked: no event that waits may have
-- a higher id than one that is published without saying so. Run with the shards taken; a repeat finds nothing. Returns
-- the ids.
with taken as (
  update outbox_shards s set ahead_ids = '{}'
  from (select shard, ahead_ids from outbox_shards where cardinality(ahead_ids) > 0) b
  where s.shard = b.shard
  returning b.ahead_ids as ids
)
select unnest(ids) as id from taken

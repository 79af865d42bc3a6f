-- Locks the rows of the shards that some events belong to, as a step of their owner does, and in an order that cannot
-- deadlock: a claim waits, and then sees all of a change or nothing. An event that `shards set` could not move belongs
-- to two. $1 bigint[]: ids. Changes nothing.
select shard from outbox_shards
where shard in (
  select unnest(array[e.shard, outbox_shard_of(outbox_key_of(e.partition_key, e.aggregate_id), e.id)]) from outbox_events e where e.id = any($1))
order by shard
for no key update

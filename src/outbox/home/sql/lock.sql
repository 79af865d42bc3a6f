-- Locks every shard, as lock_shards.sql does some, and returns what is in flight. Changes nothing.
select batch_ids from outbox_shards order by shard for no key update

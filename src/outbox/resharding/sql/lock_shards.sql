-- Locks every shard, as lock_shards.sql does some, so that no command changes events that wait at the same time.
-- Changes nothing.
select shard from outbox_shards order by shard for no key update

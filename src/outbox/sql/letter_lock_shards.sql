-- Locks the shards of some rows, in order, as every transaction does that makes rows PENDING below low_id: a claim waits, and then sees
-- both. $1 bigint[]: ids of the rows. Changes nothing by itself.
select shard from outbox_shards
where shard in (select shard from outbox_events where id = any($1))
order by shard
for no key update

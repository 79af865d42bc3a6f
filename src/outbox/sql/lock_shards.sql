-- Locks the rows of the shards that some events belong to, as a step of their owner does, and in an order that cannot deadlock: a claim
-- waits, and then sees all of a change or nothing. $1 bigint[]: ids. Changes nothing.
select shard from outbox_shards
where shard in (select e.shard from outbox_events e where e.id = any($1))
order by shard
for no key update

-- The lowest id that waits in a shard, or null. $1 smallint: shard. $2 bigint: low_id, where to begin.
select id from outbox_events where shard = $1 and status = 'PENDING' and id >= $2 order by id limit 1

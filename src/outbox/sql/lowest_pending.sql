-- The lowest id that waits in a shard, or null. $1 smallint: shard. $2 bigint: low_id, where to begin.
-- In the order of (shard, id) for the reason given in claim.sql.
select id from outbox_events
where (shard, id) >= ($1, $2) and shard <= $1 and status = 'PENDING'
order by shard, id limit 1

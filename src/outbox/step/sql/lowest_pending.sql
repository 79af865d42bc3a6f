-- The lowest id that waits in a shard, or null. $1 smallint: shard. $2 bigint: low_id, where to begin.
-- In the order of (shard, id) for the reason given in claim.sql.
select e.id from outbox_events e
where (e.shard, e.id) >= ($1, $2) and e.shard <= $1 and e.status = 'PENDING'
  and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
order by e.shard, e.id limit 1

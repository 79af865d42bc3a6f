-- The ids of the next events of a shard, without reading anything else of them. $1 smallint: shard. $2 bigint: low_id.
-- $3 bigint: the highest id to claim. $4 bigint[]: published rows of the shard that are still PENDING. $5 bigint: most
-- of them. Events whose outcome is known are left out. In the order of (shard, id) for the reason given in claim.sql.
-- Changes nothing.
select e.id from outbox_events e
where (e.shard, e.id) >= ($1, $2) and e.shard <= $1 and e.status = 'PENDING' and e.id <= $3
  and e.id not in (select unnest($4::bigint[])) and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
order by e.shard, e.id limit $5

-- As ids.sql, of those that wait again although done_id has passed them. $1 smallint: shard. $2 bigint: the
-- highest id. $3 bigint: most of them. Changes nothing.
select e.id
from outbox_again a
join outbox_events e on e.id = a.id and e.status || '' = 'PENDING'
where a.shard = $1 and a.id <= $2 and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
order by a.id limit $3

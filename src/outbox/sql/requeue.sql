-- Lists events that wait although done_id has passed them. $1 bigint[]: ids. Those that do not wait, or are above it,
-- are left out. So are those with an outcome in outbox_outcomes, which do not wait whatever their rows say. Running it
-- twice changes nothing more.
insert into outbox_again (id, shard)
select e.id, e.shard
from outbox_events e
join outbox_shards s on s.shard = e.shard
where e.id = any($1) and e.status || '' = 'PENDING' and e.id <= s.done_id
  and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
on conflict do nothing

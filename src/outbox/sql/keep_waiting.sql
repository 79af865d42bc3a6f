-- Lists events that wait although done_id has passed them. $1 bigint[]: ids. Those that do not wait, or are above it, are left out.
-- Running it twice changes nothing more.
insert into outbox_again (id, shard)
select e.id, e.shard
from outbox_events e
join outbox_shards s on s.shard = e.shard
where e.id = any($1) and e.status || '' = 'PENDING' and e.id <= s.done_id
on conflict do nothing

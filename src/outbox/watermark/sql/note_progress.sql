-- Notes how far the shards are, once a minute whatever the number of instances that do so. Where rows are not marked,
-- that tells since when they have been published. Where they are marked, there is nothing to note. Notes that are older
-- than two days are thinned out to one an hour. Running it twice changes nothing more.
with thinned as (
  delete from outbox_progress p
  where p.at between now() - interval '3 days' and now() - interval '2 days'
    and exists (
      select 1 from outbox_progress q where q.shard = p.shard and q.at > p.at and q.at < date_trunc('hour', p.at) + interval '1 hour')
)
insert into outbox_progress (shard, done_id)
select s.shard, s.done_id
from outbox_shards s
where s.done_id > 0
  and not exists (
    select 1 from outbox_progress p where p.shard = s.shard and (p.done_id >= s.done_id or p.at > now() - interval '1 minute'))
on conflict do nothing

-- Looks for waiting events below low_id, where there must be none, and lowers low_id so that they are claimed. $1
-- smallint[]: the shards of this instance. $2 uuid: instance. Returns the shards that had any, with the lowest id. The
-- first row of each shard above done_id, in the order of the index of the PENDING rows: a join might read all of it,
-- and where published rows are not written to, it has every row there is.
update outbox_shards s
set low_id = found.id
from (
  select o.shard, lowest.id
  from outbox_shards o
  cross join lateral (
    select e.id from outbox_events e
    where (e.shard, e.id) > (o.shard, o.done_id) and e.shard <= o.shard and e.status = 'PENDING'
      and not exists (select 1 from outbox_outcomes u where u.id = e.id and u.event_id = e.event_id)
    order by e.shard, e.id limit 1
  ) lowest
  where o.shard = any($1) and o.owner = $2
) found
where s.shard = found.shard and s.owner = $2 and found.id < s.low_id
returning s.shard, s.low_id

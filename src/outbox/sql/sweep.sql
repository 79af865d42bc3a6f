-- Looks for waiting events below low_id, where there must be none, and lowers low_id so that they are claimed.
-- $1 smallint[]: the shards of this instance. $2 uuid: instance.
-- Returns the shards that had any, with the lowest id.
update outbox_shards s
set low_id = found.id
from (
  select o.shard, min(e.id) as id
  from outbox_shards o
  join outbox_events e on e.shard = o.shard and e.status = 'PENDING' and e.id < o.low_id and e.id > o.done_id
  where o.shard = any($1) and o.owner = $2
  group by o.shard
) found
where s.shard = found.shard and s.owner = $2 and found.id < s.low_id
returning s.shard, s.low_id

-- Whether a row waits, whichever way the contender notes what it has published. Changes nothing. The order is that of
-- one index: without it, and while many dead rows are there, the planner reads the whole table for each shard.
select exists (
  select 1 from outbox_shards s
  cross join lateral (
    select 1 from outbox_events e
    where (e.shard, e.id) >= (s.shard, s.low_id) and e.shard <= s.shard and e.status = 'PENDING' and not e.id = any(s.ahead_ids)
    order by e.shard, e.id limit 1
  ) waiting)

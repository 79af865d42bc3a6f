-- Whether a row waits, whichever way the contender notes what it has published. Changes nothing.
select exists (
  select 1 from outbox_shards s
  cross join lateral (
    select 1 from outbox_events e
    where e.shard = s.shard and e.status = 'PENDING' and e.id > s.done_id and not e.id = any(s.ahead_ids)
    limit 1
  ) waiting)

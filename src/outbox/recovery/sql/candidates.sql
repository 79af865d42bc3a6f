-- Rows of some shards that wait or are in flight. $1 smallint[]: shards. $2 boolean: only those of the batch in flight.
-- Changes nothing. What has an outcome in outbox_outcomes neither waits nor is in flight.
select e.id, e.dead_letter_of, e.event_id, e.shard, outbox_text(left(e.topic, 250)) as topic, e.created_at
from outbox_events e
join outbox_shards s on s.shard = e.shard
where e.shard = any($1) and e.status = 'PENDING' and (not $2 or e.id = any(s.batch_ids))
  and ((e.id > s.done_id and e.id not in (select unnest(ahead_ids) from outbox_shards))
    or e.id in (select unnest(batch_ids) from outbox_shards where batch_ids is not null)
    or e.id in (select id from outbox_again))
  and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
order by e.id

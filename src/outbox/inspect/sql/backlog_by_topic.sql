-- Rows that are not finished, by topic (null: the topic comes from routing) and how long the oldest PENDING one has
-- been waiting, in seconds: since it was written, or since it is due. Reads every such row, so it takes about a second
-- per million. Changes nothing. Times are clamped first: PostgreSQL before 17 cannot subtract an infinite one, and a
-- row may hold any.
select outbox_text(left(topic, 250)) as topic,
  count(*) filter (where status = 'PENDING') as pending,
  count(*) filter (where status = 'FAILED') as failed,
  count(*) filter (where status = 'HELD') as held,
  extract(epoch from clock_timestamp() - min(least(greatest(created_at, available_at, 'epoch'), clock_timestamp())) filter (where status = 'PENDING'))::float8 as oldest_age
from (
  -- One arm per state, so that each reads its own partial index rather than the history. `offset 0` keeps the planner
  -- from joining otherwise: with no statistics it would read the whole index, and below low_id there may be millions of
  -- entries for dead rows.
  select e.topic, e.status, e.created_at, e.available_at
  from outbox_shards s
  cross join lateral (
    select id, topic, status, created_at, available_at from outbox_events
    where (shard, id) >= (s.shard, s.low_id) and shard <= s.shard and status = 'PENDING' offset 0
  ) e
  where e.id not in (select unnest(ahead_ids) from outbox_shards) and e.id not in (select id from outbox_outcomes)
  union all
  select e.topic, e.status, e.created_at, e.available_at
  from (
    select id from outbox_again
    union
    select b.id from outbox_shards s cross join lateral unnest(s.batch_ids) as b (id) where b.id <= s.done_id
  ) a
  cross join lateral (select topic, status, created_at, available_at from outbox_events where id = a.id offset 0) e
  union all
  select topic, status, created_at, available_at from outbox_events
  where status = 'FAILED' and id not in (select id from outbox_outcomes where status = 'DISCARDED')
  union all
  select topic, status, created_at, available_at from outbox_events where status = 'HELD' and id not in (select id from outbox_outcomes)
  union all
  select e.topic, o.status, e.created_at, e.available_at
  from outbox_outcomes o
  cross join lateral (select topic, created_at, available_at from outbox_events where id = o.id offset 0) e
  where o.status in ('FAILED', 'HELD')
) unfinished
group by 1
order by pending desc, 1 nulls first

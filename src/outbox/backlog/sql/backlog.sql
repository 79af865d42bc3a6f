-- Rows by state, and how long the oldest has been waiting, in seconds: since it was written, or since it is due. $1
-- bigint: rows that are counted in each shard. If more wait there, the rest is estimated: their ids are taken to lie as
-- close as those counted. From low_id on: below it nothing waits, but where a transaction keeps dead rows from being
-- removed the index has millions of entries for them. An outcome in outbox_outcomes overrules the status of its row.
-- Rows that a watermark has passed, or that were published ahead of it, are PENDING and do not wait, unless they are in
-- flight. Times are clamped first: PostgreSQL before 17 cannot subtract an infinite one, and a row may hold any.
select
  greatest((select coalesce(sum(greatest(counted.rows + coalesce(rest.rows, 0) - cardinality(s.ahead_ids), 0)), 0)::bigint
    from outbox_shards s
    cross join lateral (
      select count(*) as rows, min(id) as first_id, max(id) as last_id
      from (
        select e.id from outbox_events e
        where (e.shard, e.id) >= (s.shard, s.low_id) and e.shard <= s.shard and e.status = 'PENDING'
        order by e.shard, e.id limit $1
      ) lowest
    ) counted
    left join lateral (
      select round(counted.rows::numeric * (e.id::numeric - counted.last_id) / (counted.last_id::numeric - counted.first_id + 1)) as rows
      from outbox_events e
      where counted.rows >= $1 and (e.shard, e.id) <= (s.shard, 9223372036854775807) and e.shard >= s.shard and e.status = 'PENDING'
      order by e.shard desc, e.id desc limit 1
    ) rest on true)
    - (select count(*) from outbox_outcomes o
        cross join lateral (select e.shard, e.id from outbox_events e where e.id = o.id and e.status || '' = 'PENDING' offset 0) e
        join outbox_shards s on s.shard = e.shard and s.low_id <= e.id), 0)
    + (select count(*) from outbox_again)
    + (select count(*) from outbox_shards s cross join lateral unnest(s.batch_ids) as b (id)
        where b.id <= s.done_id and not exists (select 1 from outbox_again a where a.id = b.id)) as pending,
  (select count(*) from outbox_events where status = 'FAILED') + (select count(*) from outbox_outcomes where status = 'FAILED')
    - (select count(*) from outbox_outcomes o
        cross join lateral (select 1 from outbox_events e where e.id = o.id and e.event_id = o.event_id and e.status || '' = 'FAILED' offset 0) f
        where o.status = 'DISCARDED') as failed,
  (select count(*) from outbox_events where status = 'HELD') + (select count(*) from outbox_outcomes where status = 'HELD')
    - (select count(*) from outbox_outcomes o
        cross join lateral (select 1 from outbox_events e where e.id = o.id and e.status || '' = 'HELD' offset 0) h) as held,
  (select max(extract(epoch from clock_timestamp() - oldest.since))::float8
    from outbox_shards s
    cross join lateral (
      (select least(greatest(e.created_at, e.available_at, 'epoch'), clock_timestamp()) as since
        from outbox_events e
        where (e.shard, e.id) >= (s.shard, s.low_id) and e.shard <= s.shard and e.status = 'PENDING'
          and not e.id = any(s.ahead_ids) and e.id not in (select id from outbox_outcomes)
        order by e.shard, e.id limit 1)
      union all
      (select least(greatest(e.created_at, e.available_at, 'epoch'), clock_timestamp()) from outbox_again a join outbox_events e on e.id = a.id where a.shard = s.shard order by a.id limit 1)
    ) oldest) as oldest_age

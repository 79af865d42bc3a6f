-- Rows by state, and how long the oldest has been waiting, in seconds: since it was written, or since it is due. Counts what waits exactly, so it costs time on a large
-- backlog; the caller spaces its calls by how long they take.
-- From low_id on: below it nothing waits, but where a transaction keeps dead rows from being removed the index has millions of entries for them.
-- Rows that a watermark has passed, or that were published ahead of it, are PENDING and do not wait, unless they are in flight.
select
  (select coalesce(sum(waiting.rows), 0)::bigint
    from outbox_shards s
    cross join lateral (
      select greatest(count(*) - cardinality(s.ahead_ids), 0) as rows
      from outbox_events e where (e.shard, e.id) >= (s.shard, s.low_id) and e.shard <= s.shard and e.status = 'PENDING'
    ) waiting)
    + (select count(*) from outbox_again)
    + (select count(*) from outbox_shards s cross join lateral unnest(s.batch_ids) as b (id)
        where b.id <= s.done_id and not exists (select 1 from outbox_again a where a.id = b.id)) as pending,
  (select count(*) from outbox_events where status = 'FAILED') as failed,
  (select count(*) from outbox_events where status = 'HELD') as held,
  (select max(extract(epoch from clock_timestamp() - oldest.since))::float8
    from outbox_shards s
    cross join lateral (
      (select greatest(e.created_at, e.available_at) as since
        from outbox_events e
        where (e.shard, e.id) >= (s.shard, s.low_id) and e.shard <= s.shard and e.status = 'PENDING'
          and not e.id = any(s.ahead_ids)
        order by e.shard, e.id limit 1)
      union all
      (select greatest(e.created_at, e.available_at) from outbox_again a join outbox_events e on e.id = a.id where a.shard = s.shard order by a.id limit 1)
    ) oldest) as oldest_age

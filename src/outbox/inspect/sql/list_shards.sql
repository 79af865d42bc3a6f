-- Every shard: who owns it and for how long, the batch in flight, how many keys are held, and how long its first
-- PENDING row has been waiting, in seconds: since it was written, or since it is due. Held keys are read once, not once
-- for each shard. Changes nothing. While the number of shards changes they are taken by a command, which has no lease.
-- Times are clamped first: PostgreSQL before 17 cannot subtract an infinite one, and a row may hold any.
select s.shard, coalesce(i.name, case when s.owner = '00000000-0000-0000-0000-000000000000' then 'shards set' end) as owner, s.epoch,
  case when s.owner <> '00000000-0000-0000-0000-000000000000' then extract(epoch from s.lease_until - clock_timestamp())::float8 end as lease_left,
  s.batch_seq, coalesce(cardinality(s.batch_ids), 0) as in_flight, s.low_id, coalesce(held.keys, 0) as held_keys,
  (select extract(epoch from clock_timestamp() - oldest.since)::float8
    from (
      (select least(greatest(e.created_at, e.available_at, 'epoch'), clock_timestamp()) as since
        from outbox_events e where (e.shard, e.id) >= (s.shard, s.low_id) and e.shard <= s.shard and e.status = 'PENDING'
          and not e.id = any(s.ahead_ids) and e.id not in (select id from outbox_outcomes)
        order by e.shard, e.id limit 1)
      union all
      (select least(greatest(e.created_at, e.available_at, 'epoch'), clock_timestamp()) from outbox_again a join outbox_events e on e.id = a.id where a.shard = s.shard order by a.id limit 1)
      order by since limit 1
    ) oldest
  ) as oldest_pending
from outbox_shards s
left join outbox_instances i on i.instance = s.owner
left join (select shard, count(*) as keys from outbox_held_keys group by shard) held on held.shard = s.shard
order by s.shard

-- Every shard: who owns it and for how long, the batch in flight, and how much waits in held keys. Changes nothing.
-- While their number changes they are taken by a command, which has no lease.
select s.shard, coalesce(i.name, case when s.owner = '00000000-0000-0000-0000-000000000000' then 'shards set' end) as owner, s.epoch,
  case when s.owner <> '00000000-0000-0000-0000-000000000000' then extract(epoch from s.lease_until - clock_timestamp())::float8 end as lease_left,
  s.batch_seq, coalesce(cardinality(s.batch_ids), 0) as in_flight, s.low_id,
  (select count(*) from outbox_held_keys h where h.shard = s.shard) as held_keys,
  (select extract(epoch from clock_timestamp() - oldest.created_at)::float8
    from (select e.created_at from outbox_events e where e.shard = s.shard and e.status = 'PENDING' and e.id >= s.low_id order by e.id limit 1) oldest
  ) as oldest_pending
from outbox_shards s
left join outbox_instances i on i.instance = s.owner
order by s.shard

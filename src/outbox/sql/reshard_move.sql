-- Computes the shard of the events again that wait in a shard: a generated column follows when a column is named that it is made from.
-- $1 smallint: shard. Rows that are where they belong are left alone, so it can be repeated.
-- An event that comes into a shard which has passed its id waits again there.
with stray as (
  select id from outbox_events
  where shard = $1 and status = 'PENDING' and id > (select done_id from outbox_shards where shard = $1)
    and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
  union all
  select e.id from outbox_again a join outbox_events e on e.id = a.id
  where e.shard = $1 and e.status = 'PENDING' and e.shard <> outbox_shard_of(outbox_key_of(e.partition_key, e.aggregate_id), e.id)
  union all
  select id from outbox_events
  where shard = $1 and status = 'HELD' and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
),
moved as (
  update outbox_events set partition_key = partition_key where id in (select id from stray) returning id, shard, status
),
again as (
  insert into outbox_again (id, shard)
  select m.id, m.shard from moved m join outbox_shards s on s.shard = m.shard where m.status = 'PENDING' and m.id <= s.done_id
  on conflict (id) do update set shard = excluded.shard
),
lowered as (
  -- Where it has not, the claim begins at the event.
  update outbox_shards s set low_id = least(s.low_id, l.id)
  from (
    select m.shard, min(m.id) as id from moved m join outbox_shards o on o.shard = m.shard
    where m.status = 'PENDING' and m.id > o.done_id group by m.shard
  ) l
  where s.shard = l.shard
),
not_again as (
  delete from outbox_again a using moved m, outbox_shards s where a.id = m.id and s.shard = m.shard and m.id > s.done_id
)
select count(*) as moved from moved

-- Computes the shard of some events again: a generated column follows when a column is named that it is made from. $1
-- bigint[]: ids. Rows that are where they belong are left alone, so it can be repeated. An event that comes into a
-- shard which has passed its id waits again there. One with an outcome in outbox_outcomes does not wait.
with moved as (
  update outbox_events set partition_key = partition_key
  where id = any($1) and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
  returning id, event_id, shard, status
),
waiting as (
  select m.id, m.shard, s.done_id
  from moved m join outbox_shards s on s.shard = m.shard
  where m.status = 'PENDING' and not exists (select 1 from outbox_outcomes o where o.id = m.id and o.event_id = m.event_id)
),
again as (
  insert into outbox_again (id, shard) select id, shard from waiting where id <= done_id
  on conflict (id) do update set shard = excluded.shard
),
lowered as (
  -- Where it has not, the claim begins at the event.
  update outbox_shards s set low_id = least(s.low_id, l.id)
  from (select shard, min(id) as id from waiting where id > done_id group by shard) l
  where s.shard = l.shard
),
not_again as (
  delete from outbox_again a using moved m, outbox_shards s where a.id = m.id and s.shard = m.shard and m.id > s.done_id
)
select count(*) as moved from moved

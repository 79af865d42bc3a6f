-- Computes the shard of the events again that wait in a shard: a generated column follows when a column is named that it is made from.
-- $1 smallint: shard. Rows that are where they belong are left alone, so it can be repeated.
with stray as (
  select id from outbox_events
  where shard = $1 and status = 'PENDING' and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
  union all
  select id from outbox_events
  where shard = $1 and status = 'HELD' and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
)
update outbox_events set partition_key = partition_key where id in (select id from stray)

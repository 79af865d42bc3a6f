-- Takes away the shards that keys are not spread over any more, and keeps what they were at. Nothing that waits is left
-- in them, so they are done with every id that was drawn.
with retired as (
  delete from outbox_shards where shard >= outbox_shard_count() returning shard, epoch, batch_seq, marked, producer_generation
),
last as (
  select case when is_called then last_value else last_value - 1 end as id from outbox_events_id_seq
),
noted as (
  insert into outbox_progress (shard, done_id) select r.shard, l.id from retired r, last l on conflict do nothing
)
insert into outbox_retired_shards (shard, epoch, batch_seq, marked, producer_generation, done_id)
select r.shard, r.epoch, r.batch_seq, r.marked, r.producer_generation, l.id from retired r, last l

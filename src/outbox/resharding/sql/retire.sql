-- Takes away the shards that keys are not spread over any more, and keeps what they were at. Nothing that waits is left
-- in them. Their own watermark is kept, not the last id that was drawn: a transaction may have drawn an id long before
-- it inserts the event, and by then the shard may be back.
with retired as (
  delete from outbox_shards where shard >= outbox_shard_count() returning shard, epoch, batch_seq, marked, producer_generation, done_id
),
noted as (
  insert into outbox_progress (shard, done_id) select shard, done_id from retired where done_id > 0 on conflict do nothing
)
insert into outbox_retired_shards (shard, epoch, batch_seq, marked, producer_generation, done_id)
select shard, epoch, batch_seq, marked, producer_generation, done_id from retired

-- Takes away the shards that keys are not spread over any more, and keeps what they were at.
with retired as (
  delete from outbox_shards where shard >= outbox_shard_count() returning shard, epoch, batch_seq, marked
)
insert into outbox_retired_shards (shard, epoch, batch_seq, marked) select shard, epoch, batch_seq, marked from retired

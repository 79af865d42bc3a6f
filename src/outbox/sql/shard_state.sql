-- The manifest of a shard that is ours. $1 smallint: shard. $2 uuid: owner. $3 bigint: epoch.
-- No row: another instance owns the shard.
select batch_seq, batch_ids, marked, batch_tag, producer_generation from outbox_shards where shard = $1 and owner = $2 and epoch = $3

-- A shard goes on under another transactional.id. $1 smallint: shard. $2 uuid: owner. $3 bigint: epoch. $4 int: the
-- generation so far. No row: another instance owns the shard, or the generation is another one already.
update outbox_shards set producer_generation = producer_generation + 1
where shard = $1 and owner = $2 and epoch = $3 and producer_generation = $4
returning producer_generation

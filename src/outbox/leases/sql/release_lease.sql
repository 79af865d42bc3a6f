-- Gives a shard up, so that another instance can take it at once. $1 smallint: shard. $2 uuid: owner. $3 bigint: epoch.
-- Running it twice changes nothing.
update outbox_shards set owner = null, lease_until = null where shard = $1 and owner = $2 and epoch = $3

-- Renews the leases of an instance. $1 uuid: instance. $2 smallint[]: shards. $3 bigint[]: their epochs, in the same order.
-- $4 float8: lease in seconds.
-- Returns the shards that were renewed; one that is missing belongs to another instance now.
update outbox_shards s
set lease_until = clock_timestamp() + make_interval(secs => $4)
from unnest($2::smallint[], $3::bigint[]) as mine(shard, epoch)
where s.shard = mine.shard and s.owner = $1 and s.epoch = mine.epoch
returning s.shard

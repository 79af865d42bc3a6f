-- Takes shards that nobody owns or whose lease is over, by the clock of the database. Several instances may do so at once:
-- SKIP LOCKED lets each take others without waiting.
-- $1 uuid: instance. $2 float8: lease in seconds. $3 bigint: most shards to take.
-- Returns the new epoch, which fences the former owner, and the batch that was in flight.
update outbox_shards s
set owner = $1, epoch = s.epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $2)
from (
  select shard, owner from outbox_shards
  where owner is null or lease_until < clock_timestamp()
  order by shard limit $3
  for no key update skip locked
) free
where s.shard = free.shard
returning s.shard, s.epoch, s.batch_seq, s.batch_ids, free.owner as former_owner

-- Takes shards that nobody owns, whose lease is over by the clock of the database, or whose owner is dead. Several
-- instances may do so at once: SKIP LOCKED lets each take others without waiting. $1 uuid: instance. $2 float8: lease
-- in seconds. $3 bigint: most shards to take. $4 uuid[]: owners that were found to be dead; one that holds its advisory
-- lock by now is not. While the number of shards changes, only those with a batch in flight, for it to be settled.
-- Returns the new epoch, which fences the former owner, and the batch that was in flight.
update outbox_shards s
set owner = $1, epoch = s.epoch + 1, lease_until = clock_timestamp() + make_interval(secs => $2)
from (
  select shard, owner from outbox_shards
  where (
      owner is null or lease_until < clock_timestamp()
      or (owner = any($4) and not exists (
        select 1 from pg_locks
        where locktype = 'advisory' and classid = 28514 and objsubid = 2 and granted
          and database = (select oid from pg_database where datname = current_database())
          and objid::bigint = outbox_session_key(owner)
      ))
    )
    and (batch_ids is not null or (select resharding_to is null from outbox_installation))
  order by shard limit $3
  for no key update skip locked
) free
where s.shard = free.shard
returning s.shard, s.epoch, s.batch_seq, s.batch_ids, free.owner as former_owner

-- The number of shards that keys are spread over, the one that was asked for and is not finished, whether exactly-once
-- delivery has written markers, and whether this role may change the number. Changes nothing.
select outbox_shard_count() as shards, resharding_to as wanted, exists (select 1 from outbox_shards where marked) as marked,
  pg_has_role(p.proowner, 'USAGE') as may
from outbox_installation, pg_proc p
where p.oid = 'outbox_shard_count()'::regprocedure

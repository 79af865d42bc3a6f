-- Looks for events that wait behind nobody: their key was changed after it was held, so what releases the old key does
-- not meet them. Makes the keys that they have now due, so that their owner releases them. $1 smallint[]: the shards of
-- this instance. An event that is the first of a key's entry, its former one perhaps, is left alone until that is
-- released. Every change of a lane or a command gives a HELD event its entry in the same transaction, so one without it
-- is a stray. Running it twice changes nothing more. Returns the first event of each key.
insert into outbox_held_keys (first_id, shard, partition_key, reason, release_at)
select distinct on (stray.shard, coalesce('key ' || md5(stray.key), stray.id::text)) stray.id, stray.shard, stray.key, 'retry', now()
from (
  select e.id, e.shard, case when e.dead_letter_of is null then outbox_key_of(e.partition_key, e.aggregate_id) end as key
  from outbox_events e
  where e.status = 'HELD' and e.shard = any($1) and not exists (select 1 from outbox_held_keys h where h.first_id = e.id)
    and e.id not in (select id from outbox_outcomes)
) stray
where not exists (
  select 1 from outbox_held_keys h
  where h.shard = stray.shard and h.partition_key is not null and md5(h.partition_key) = md5(stray.key))
order by stray.shard, coalesce('key ' || md5(stray.key), stray.id::text), stray.id
on conflict do nothing
returning shard, first_id

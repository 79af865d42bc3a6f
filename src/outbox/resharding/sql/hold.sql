-- Holds the keys of events that could not be moved, in the shards where the keys belong. $1 bigint[]: ids. Running it
-- twice changes nothing more. A key that an earlier event holds stays as it is: the event waits behind that one. Run
-- when the held keys have been moved, and no shard has an owner. Returns the events that wait or would have waited:
-- true for those that have failed, since nothing lets them go on but a retry; the others wait.
with stuck as (
  select e.id, e.dead_letter_of, outbox_shard_of(outbox_key_of(e.partition_key, e.aggregate_id), e.id) as shard,
    case when e.dead_letter_of is null then outbox_key_of(e.partition_key, e.aggregate_id) end as key,
    exists (select 1 from outbox_held_keys h where h.first_id = e.id) as holds
  from outbox_events e
  where e.id = any($1) and e.status || '' in ('PENDING', 'HELD')
    and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)
),
held as (
  insert into outbox_held_keys as h (first_id, shard, partition_key, reason)
  select distinct on (shard, md5(key)) id, shard, key, 'failed' from stuck where key is not null and not holds
  order by shard, md5(key), id
  on conflict (shard, md5(partition_key)) where partition_key is not null do update
  set first_id = excluded.first_id, reason = excluded.reason, held_at = excluded.held_at, release_at = null, topic = null, detail = null,
    released_to = null
  where h.first_id > excluded.first_id or h.released_to >= excluded.first_id
  returning first_id
)
select s.id, s.id in (select first_id from held) or (s.key is null and not s.holds) as failed
from stuck s
order by s.id

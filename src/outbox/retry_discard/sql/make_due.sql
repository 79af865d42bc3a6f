-- Makes the keys of some HELD events due at once; an event without a key, or a dead letter, stands for itself. $1
-- bigint[]: ids. Runs with the rows of their shards locked. Running it twice changes nothing more.
with events as (
  select id, shard, case when dead_letter_of is null then outbox_key_of(partition_key, aggregate_id) end as key
  from outbox_events e
  where id = any($1) and (
    status || '' = 'HELD'
    or exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id and o.status = 'HELD'))
),
wanted as (
  select distinct on (shard, coalesce('key ' || md5(key), id::text)) id, shard, key
  from events
  order by shard, coalesce('key ' || md5(key), id::text), id
),
by_key as (
  update outbox_held_keys h set reason = 'retry', release_at = now(), released_to = null, topic = null, detail = null
  from wanted w
  where w.key is not null and h.shard = w.shard and md5(h.partition_key) = md5(w.key)
  returning w.id
),
by_id as (
  update outbox_held_keys h set reason = 'retry', release_at = now(), released_to = null, topic = null, detail = null
  from wanted w
  where w.key is null and h.first_id = w.id
  returning w.id
)
insert into outbox_held_keys (first_id, shard, partition_key, reason, release_at)
select id, shard, key, 'retry', now()
from wanted
where id not in (select id from by_key union all select id from by_id)

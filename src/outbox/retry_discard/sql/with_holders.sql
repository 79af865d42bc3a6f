-- Those of some events that still failed or wait, and, on request, the failed events that hold their keys, without
-- which they would go past them. $1 bigint[]: ids. $2 boolean: with holders. Changes nothing. An outcome in
-- outbox_outcomes overrules the status of its row. The shard is that of the key, where `shards set` has put the key.
with wanted as materialized (
  select e.id, outbox_key_of(e.partition_key, e.aggregate_id) as key
  from outbox_events e
  where e.id = any($1) and (
    (e.status || '' in ('FAILED', 'HELD')
      and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id and o.status = 'DISCARDED'))
    or exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id and o.status in ('FAILED', 'HELD')))
)
select id from wanted
union
select h.first_id
from wanted w
join outbox_held_keys h on h.shard = outbox_shard_of(w.key, w.id) and md5(h.partition_key) = md5(w.key)
where $2 and h.partition_key is not null and (
  exists (
    select 1 from outbox_events f where f.id = h.first_id and f.status || '' = 'FAILED'
      and not exists (select 1 from outbox_outcomes o where o.id = f.id and o.event_id = f.event_id and o.status = 'DISCARDED'))
  or exists (
    select 1 from outbox_outcomes o join outbox_events f on f.id = o.id and f.event_id = o.event_id
    where o.id = h.first_id and o.status = 'FAILED'))

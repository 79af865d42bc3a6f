-- Before events are tried again: those among them that hold a key which is no longer theirs, because it was corrected,
-- let go of it. What waits behind them under the old key is due, and held by the first of it from now on. $1 bigint[]:
-- ids. Running it twice changes nothing more.
with strangers as (
  select h.first_id, h.shard, h.partition_key
  from outbox_held_keys h
  join outbox_events e on e.id = h.first_id
  where h.first_id = any($1)
    and (h.shard, h.partition_key) is distinct from
      (e.shard, case when e.dead_letter_of is null then outbox_key_of(e.partition_key, e.aggregate_id) end)
),
heirs as (
  select s.first_id, (
    select min(w.id) from outbox_events w
    where w.status = 'HELD' and w.shard = s.shard and md5(outbox_key_of(w.partition_key, w.aggregate_id)) = md5(s.partition_key)
      and w.dead_letter_of is null and not exists (select 1 from outbox_held_keys x where x.first_id = w.id)) as heir
  from strangers s
),
gone as (
  delete from outbox_held_keys h using heirs i where h.first_id = i.first_id and i.heir is null
)
update outbox_held_keys h
set first_id = i.heir, reason = 'retry', release_at = now(), released_to = null, topic = null
from heirs i
where h.first_id = i.first_id and i.heir is not null

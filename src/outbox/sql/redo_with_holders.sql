-- Those of some events that still failed or wait, and, on request, the failed events that hold their keys, without which they
-- would go past them. $1 bigint[]: ids. $2 boolean: with holders. Changes nothing.
select id from outbox_events where id = any($1) and status in ('FAILED', 'HELD')
union
select f.id
from outbox_events e
join outbox_held_keys h on h.shard = e.shard and md5(h.partition_key) = md5(outbox_key_of(e.partition_key, e.aggregate_id))
join outbox_events f on f.id = h.first_id and f.status = 'FAILED'
where $2 and e.id = any($1) and e.status in ('FAILED', 'HELD') and h.partition_key is not null

-- Which events that cannot be read have a key that is held. $1 smallint: shard. $2 bigint[]: ids.
-- Returns the id, and up to which id the events of its key may go, as held_among.sql does. Changes nothing.
select e.id, greatest(h.first_id - 1, h.released_to) as released_to
from outbox_events e
join outbox_held_keys h on h.shard = $1 and h.partition_key is not null
  and md5(h.partition_key) = md5(outbox_key_of(e.partition_key, e.aggregate_id))
where e.id = any($2)

-- How many of these events are rows of the outbox. $1 bigint[]: ids. $2 uuid[]: their event ids, in the same order.
-- Changes nothing. Both count: after a failover that lost rows their ids are given to others, and a replay gives an
-- event another id.
select count(*) as known
from unnest($1::bigint[], $2::uuid[]) as k(id, event_id)
join outbox_events e on e.id = k.id and e.event_id = k.event_id

-- In which state events are now. $1 bigint[]: ids. Returns the state and how many are in it; null: the row is gone. An
-- outcome in outbox_outcomes overrules the status of its row. Reads only.
select coalesce(o.status, e.status) as status, count(*) as events
from unnest($1::bigint[]) as asked (id)
left join outbox_events e on e.id = asked.id
left join outbox_outcomes o on o.id = e.id and o.event_id = e.event_id
group by 1

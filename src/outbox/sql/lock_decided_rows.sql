-- Notes what was decided about events whose dead letter is written: it outlives the row. $1 bigint[]: ids. $2 text: the
-- decision, as the constraint of the table has it. Running it twice changes nothing more. Run it when the events have
-- been changed.
insert into outbox_decisions (id, event_id, decision)
select e.id, e.event_id, $2
from outbox_events e
where e.id = any($1) and exists (select 1 from outbox_events d where d.dead_letter_of = e.id)
on conflict (id, event_id) do update set decision = excluded.decision, at = excluded.at

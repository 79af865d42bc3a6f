-- Forgets outcomes of events that are gone, or whose rows were changed by hand since. An event that was given up may
-- still be FAILED in its row. Changes nothing else; it can be repeated.
delete from outbox_outcomes o
where not exists (
  select 1 from outbox_events e
  where e.id = o.id and e.event_id = o.event_id
    and (e.status || '' in ('PENDING', 'HELD') or (e.status || '' = 'FAILED' and o.status = 'DISCARDED')))

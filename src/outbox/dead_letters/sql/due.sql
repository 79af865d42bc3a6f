-- Locks the events whose dead letters are due, in order. $1 bigint: most of them. $2 bigint[]: those that are put off.
-- Where the row refuses to be changed, its outcome says that one is due, and is locked instead. None is due of an event
-- that was given up.
-- Returns their ids. Changes nothing by itself; the locks end with the transaction.
with of_rows as (
  select id from outbox_events
  where dead_letter_to is not null and id <> all($2)
    and not exists (select 1 from outbox_outcomes o where o.id = outbox_events.id and o.event_id = outbox_events.event_id and o.status = 'DISCARDED')
  order by id limit $1
  for no key update skip locked
),
of_outcomes as (
  select id from outbox_outcomes
  where dead_letter_to is not null and id <> all($2)
  order by id limit $1
  for no key update skip locked
)
select id from of_rows union all select id from of_outcomes order by id

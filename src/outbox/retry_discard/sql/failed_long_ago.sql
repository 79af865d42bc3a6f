-- Events that are FAILED for long enough, lowest id first. $1 float8: seconds. $2 bigint: most of them.
-- An event counts as well that has failed by its outcome in outbox_outcomes, because its row refuses to be changed.
-- Not those whose dead letter is written or will be: that is where they are dealt with. Changes nothing.
select id
from (
  (select e.id
    from outbox_events e
    where e.status = 'FAILED' and e.failed_at < now() - make_interval(secs => $1)
      and e.dead_letter_of is null and e.dead_letter_to is null
      and not exists (select 1 from outbox_events d where d.dead_letter_of = e.id)
      and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id and o.status = 'DISCARDED')
    order by e.id
    limit $2)
  union all
  select e.id
  from outbox_outcomes o join outbox_events e on e.id = o.id and e.event_id = o.event_id
  where o.status = 'FAILED' and o.at < now() - make_interval(secs => $1) and e.dead_letter_of is null and o.dead_letter_to is null
    and not exists (select 1 from outbox_events d where d.dead_letter_of = e.id)
) failed
order by id
limit $2

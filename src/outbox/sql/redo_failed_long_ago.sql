-- Events that are FAILED for long enough, lowest id first. $1 float8: seconds. $2 bigint: most of them.
-- Not those whose dead letter is written or will be: that is where they are dealt with. Changes nothing.
select e.id
from outbox_events e
where e.status = 'FAILED' and e.failed_at < now() - make_interval(secs => $1)
  and e.dead_letter_of is null and e.dead_letter_to is null
  and not exists (select 1 from outbox_events d where d.dead_letter_of = e.id)
order by e.id
limit $2

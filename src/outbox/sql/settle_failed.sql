-- Moves refused events to FAILED, with the reason. $1 bigint[]: ids. $2 text[]: reasons, in the same order.
-- Running it twice changes nothing.
-- The status is compared as an expression, so that the planner cannot choose the index of the PENDING rows: with statistics
-- from a quiet moment it believes that index to be almost empty, and a backlog made one batch take seconds.
update outbox_events e
set status = 'FAILED', retry_count = e.retry_count + 1, last_error = u.reason
from unnest($1::bigint[], $2::text[]) as u(id, reason)
where e.id = u.id and e.status || '' = 'PENDING'

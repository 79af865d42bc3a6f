-- Moves refused events to FAILED, with the reason. $1 bigint[]: ids. $2 text[]: reasons, in the same order.
-- Running it twice changes nothing.
update outbox_events e
set status = 'FAILED', retry_count = e.retry_count + 1, last_error = u.reason
from unnest($1::bigint[], $2::text[]) as u(id, reason)
where e.id = u.id and e.status = 'PENDING'

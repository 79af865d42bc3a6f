-- Counts an attempt of refused events and gives them their new state. $1 bigint[]: ids. In the same order: $2 text[]:
-- 'FAILED', or 'HELD' until the next attempt. $3 text[]: reasons. $4 text[]: the dead-letter topic, or null. $5 text[]:
-- the topic it was for. Returns for each row that it wrote whether it is in another state now: a trigger may have put
-- the old one back. Running it twice changes nothing. An attempt more than the column can count is not counted. The
-- status is compared as an expression, so that the planner cannot choose the index of the PENDING rows: with statistics
-- from a quiet moment it believes that index to be almost empty, and a backlog made one batch take seconds.
update outbox_events e
set status = u.status, retry_count = least(e.retry_count, 2147483646) + 1, last_error = u.reason,
  failed_at = case when u.status = 'FAILED' then now() end, dead_letter_to = u.dead_letter_to, dead_letter_from = u.topic
from unnest($1::bigint[], $2::text[], $3::text[], $4::text[], $5::text[]) as u(id, status, reason, dead_letter_to, topic)
where e.id = u.id and e.status || '' = 'PENDING'
returning e.status <> 'PENDING' as moved

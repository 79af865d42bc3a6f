-- What the rows of failed events say: attempts before this one, type, and whether the event is a dead letter itself.
-- $1 bigint[]: ids. Changes nothing. A type may be of any length; no rule names one that is longer than this.
-- The status is compared as an expression for the reason given in settle_published.sql.
select id, retry_count, left(event_type, 300) as event_type, dead_letter_of is not null as is_dead_letter
from outbox_events
where id = any($1) and status || '' = 'PENDING'

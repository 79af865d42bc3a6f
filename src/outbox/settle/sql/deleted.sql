-- Deletes acknowledged events. $1 bigint[]: ids. As settle_published.sql does it: by id list, and with a status that
-- the planner cannot take for the index of the PENDING rows. Dead letters stay: by them it is known that a FAILED event
-- needs no other attempt.
delete from outbox_events where id = any($1) and status || '' = 'PENDING' and dead_letter_of is null

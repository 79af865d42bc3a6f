-- Of rows that were to leave a state, one that is in it still, although no error was raised: a trigger of somebody else's skipped the update
-- or put the state back. $1 bigint[]: ids. $2 text: the state. Runs in the transaction of the update.
-- The status is compared as an expression, so that the planner cannot choose the index of the PENDING rows (see settle_published.sql).
select id from outbox_events where id = any($1) and status || '' = $2 limit 1

-- Takes events that wait behind another one of their key out of the hot index. $1 bigint[]: ids. Returns for each row
-- that it wrote whether it is in another state now: a trigger may have put the old one back. Running it twice changes
-- nothing. The status is compared as an expression, so that the planner cannot choose the index of the PENDING rows:
-- with statistics from a quiet moment it believes that index to be almost empty, and a backlog made one batch take
-- seconds.
update outbox_events set status = 'HELD' where id = any($1) and status || '' = 'PENDING'
returning status <> 'PENDING' as moved

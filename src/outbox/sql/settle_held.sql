-- Takes events that wait behind another one of their key out of the hot index. $1 bigint[]: ids.
-- Running it twice changes nothing.
update outbox_events set status = 'HELD' where id = any($1) and status = 'PENDING'

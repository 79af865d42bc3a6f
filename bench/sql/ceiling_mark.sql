-- $1 bigint[]: ids of the rows that were claimed.
update outbox_events set status = 'PUBLISHED', published_at = clock_timestamp() where id = any($1)

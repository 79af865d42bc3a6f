-- Events wait for their turn again. $1 bigint[]: ids. Runs under the fence of their shard. Running it twice changes
-- nothing more.
update outbox_events set status = 'PENDING' where id = any($1) and status || '' = 'HELD'

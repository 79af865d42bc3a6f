-- Computes the shard of some events again that `shards set` could not move. $1 bigint[]: ids. Rows that are where they
-- belong are left alone, so it costs an index look-up each, and can be repeated. With the rows of both shards locked.
-- What waits in them is said by the caller.
select outbox_rehome($1)

-- The same for FAILED events, which a retry makes PENDING again. $1 bigint[]: ids. Can be repeated.
update outbox_events set partition_key = partition_key
where id = any($1) and status || '' = 'FAILED' and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)

-- The same for FAILED events, which a retry makes PENDING again.
update outbox_events set partition_key = partition_key
where status = 'FAILED' and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)

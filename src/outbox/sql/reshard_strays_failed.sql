-- Lists the FAILED events whose key belongs to another shard. Changes nothing.
select id from outbox_events where status = 'FAILED' and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)

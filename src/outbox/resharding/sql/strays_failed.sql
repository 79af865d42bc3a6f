-- Lists the FAILED events whose key belongs to another shard. Those that were given up stay where they are. Changes
-- nothing.
select id from outbox_events
where status = 'FAILED' and shard <> outbox_shard_of(outbox_key_of(partition_key, aggregate_id), id)
  and not exists (select 1 from outbox_outcomes o where o.id = outbox_events.id and o.event_id = outbox_events.event_id and o.status = 'DISCARDED')

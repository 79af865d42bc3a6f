-- Lists the events that failed or wait by their outcome in outbox_outcomes, and whose key belongs to another shard;
-- also those in a shard that was taken away. They are moved as well, so that they are found where their key is. Changes
-- nothing.
select e.id from outbox_outcomes o join outbox_events e on e.id = o.id and e.event_id = o.event_id
where o.status in ('FAILED', 'HELD') and e.status || '' in ('PENDING', 'HELD')
  and e.shard <> outbox_shard_of(outbox_key_of(e.partition_key, e.aggregate_id), e.id)

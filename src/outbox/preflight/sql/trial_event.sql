-- Writes an event as the relay writes dead letters, for `check` alone, in a transaction that is rolled back. $1 text:
-- its topic. Returns its id.
insert into outbox_events (event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload, headers,
  correlation_id, causation_id, source, traceparent, created_at)
values (gen_random_uuid(), 'outbox-relay', 'outbox-relay check', 'outbox-relay check', 1, $1, 'outbox-relay check', '{}', '{}',
  'outbox-relay check', 'outbox-relay check', 'outbox-relay check', null, now())
returning id

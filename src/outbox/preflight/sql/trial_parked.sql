-- Parks an event, as the consumer does, for `check` alone, in a transaction that is rolled back.
insert into consumer_parked (consumer_group, event_id, event_type, topic, partition, "offset", key, value, headers, recorded_at, error)
values ('outbox-relay check', gen_random_uuid(), 'outbox-relay check', 'outbox-relay-check', 0, 0, '\x00', '\x00', '[]', now(), 'on trial')
on conflict (consumer_group, event_id, projection) do nothing

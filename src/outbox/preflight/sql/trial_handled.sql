-- Notes an event as handled, as the consumer does, for `check` alone, in a transaction that is rolled back.
insert into event_handled (consumer_group, event_id, event_type, aggregate_type, aggregate_id, event_version, topic, partition, "offset")
values ('outbox-relay check', gen_random_uuid(), 'outbox-relay check', null, null, 1, 'outbox-relay-check', 0, 0)
on conflict (consumer_group, event_id) do nothing

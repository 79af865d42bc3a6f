-- Writes an event with a payload of bytes and without a key, as trial_event.sql does. $1 text: its topic.
insert into outbox_events (event_id, event_type, topic, payload_raw, created_at)
values (gen_random_uuid(), 'outbox-relay check', $1, '\x00', now())

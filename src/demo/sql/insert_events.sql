-- Enqueues events in the writer's transaction, ids in the order of the arrays: all that an application has to do.
-- $1 text[]: aggregate types, $2 text[]: aggregate ids, $3 text[]: event types, $4 int[]: event versions,
-- $5 text[]: topics, $6 text[]: payloads as JSON, side by side. Returns the ids.
-- Not to be repeated after a commit: it would enqueue the events again, as new ones.
insert into outbox_events (aggregate_type, aggregate_id, event_type, event_version, topic, payload)
select event.aggregate_type, event.aggregate_id, event.event_type, event.event_version, event.topic, event.payload::jsonb
from unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[])
  with ordinality as event (aggregate_type, aggregate_id, event_type, event_version, topic, payload, place)
order by event.place
returning id

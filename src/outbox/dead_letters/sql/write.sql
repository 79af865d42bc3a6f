-- Appends the dead letters that are due, and takes the note that they are. $1 bigint: most of them. $2 bigint[]: those
-- that are put off. $3 bigint[]: of these alone, or null for any. Key, payload, headers and created_at are those of the
-- event. Headers that are no strings, which can be why it failed, become strings; one of ours that is there already
-- gets its newest value, and retry_count goes up by one. Of an event whose row refuses to be changed the outcome says
-- all this, and is changed in its stead. Returns how many were written, and the events of which none was, since a
-- trigger of somebody else's kept the note: it would be written again and again. An event is locked while it is copied,
-- and the note goes in the same transaction, so nobody copies it twice.
with due_rows as (
  select id, dead_letter_to, dead_letter_from, last_error, failed_at from outbox_events
  where dead_letter_to is not null and id <> all($2) and ($3::bigint[] is null or id = any($3))
    and not exists (select 1 from outbox_outcomes o where o.id = outbox_events.id and o.event_id = outbox_events.event_id and o.status = 'DISCARDED')
  order by id limit $1
  for no key update skip locked
),
due_outcomes as (
  select id, event_id, dead_letter_to, dead_letter_from, last_error, at from outbox_outcomes
  where dead_letter_to is not null and id <> all($2) and ($3::bigint[] is null or id = any($3))
  order by id limit $1
  for no key update skip locked
),
due as (
  select * from due_rows
  union all
  select o.id, o.dead_letter_to, o.dead_letter_from, o.last_error, o.at from due_outcomes o
  join outbox_events e on e.id = o.id and e.event_id = o.event_id
),
noted as (
  update outbox_events e set dead_letter_to = null from due_rows d where e.id = d.id
  returning e.id, e.dead_letter_to is null as gone
),
noted_outcomes as (
  update outbox_outcomes o set dead_letter_to = null from due_outcomes d where o.id = d.id
  returning o.id
),
written as (
  insert into outbox_events (
    event_id, aggregate_type, aggregate_id, event_type, event_version, topic, partition_key, payload, payload_raw, headers,
    correlation_id, causation_id, source, traceparent, created_at, dead_letter_of
  )
  select e.event_id, e.aggregate_type, e.aggregate_id, e.event_type, e.event_version, due.dead_letter_to, e.partition_key, e.payload,
    e.payload_raw,
    coalesce(own.headers, '{}') || jsonb_build_object(
      'original_topic', coalesce(due.dead_letter_from, e.topic, ''),
      'exception_class', split_part(due.last_error, ': ', 1),
      'exception_message', coalesce(nullif(substr(due.last_error, length(split_part(due.last_error, ': ', 1)) + 3), ''), 'Unknown error'),
      -- Of infinity there is no such text.
      'failed_at', coalesce(to_char(coalesce(due.failed_at, now()) at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'), due.failed_at::text),
      'retry_count', (case when own.headers ->> 'retry_count' ~ '^[0-9]{1,9}$' then (own.headers ->> 'retry_count')::bigint else 0 end + 1)::text
    ),
    e.correlation_id, e.causation_id, e.source, e.traceparent, e.created_at, e.id
  from outbox_events e
  join due using (id)
  join (select id from noted where gone union all select id from noted_outcomes) n using (id)
  cross join lateral (
    select jsonb_object_agg(h.key, case jsonb_typeof(h.value) when 'string' then h.value else to_jsonb(h.value::text) end) as headers
    from jsonb_each(case jsonb_typeof(e.headers) when 'object' then e.headers else '{}' end) as h
  ) own
  returning id
)
select (select count(*) from written) as letters, array(select id from due_rows except select id from noted where gone) as kept

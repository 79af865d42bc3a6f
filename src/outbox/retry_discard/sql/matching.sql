-- Events that failed or wait and match all filters, in order of id. A null filter matches everything. Changes nothing.
-- $1 bigint: id. $2 uuid: event_id. $3 text: key. $4 text[]: states, not null. $5 text: topic. $6 text: event type. $7
-- text: aggregate type. $8 text: aggregate id. $9 text: correlation id. $10 timestamptz, $11 float8: created since this
-- time, and since so many seconds ago. $12 timestamptz, $13 float8: created before, likewise. $14 text: class of the
-- error. $15 bigint[]: ids. An outcome in outbox_outcomes overrules the status of its row. The partial indexes of both
-- states serve it: it costs as much as there are such events.
select id, status, outbox_text(left(topic, 250)) as topic
from (
  select id, status, topic, event_id, partition_key, aggregate_id, event_type, aggregate_type, correlation_id, created_at, last_error
  from outbox_events
  where status = any($4) and status in ('FAILED', 'HELD') and id not in (select id from outbox_outcomes)
  union all
  select e.id, o.status, e.topic, e.event_id, e.partition_key, e.aggregate_id, e.event_type, e.aggregate_type, e.correlation_id, e.created_at,
    coalesce(o.last_error, e.last_error)
  from outbox_outcomes o join outbox_events e on e.id = o.id and e.event_id = o.event_id
  where o.status = any($4) and o.status in ('FAILED', 'HELD')
) events
where {filter}
  and ($14::text is null or split_part(last_error, ': ', 1) = $14)
  and ($15::bigint[] is null or id = any($15))
order by id

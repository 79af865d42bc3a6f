-- Claims again the events of a batch that was in flight when its lane stopped, in the order they were sent in.
-- $1 bigint[]: the ids of the manifest. $2 bigint: most bytes of one row, as in claim.sql.
-- Returns those that are still PENDING; the batch was within its bounds when it was written. Changes nothing by itself.
-- The status is compared as an expression, so that the planner cannot choose the index of the PENDING rows: with statistics
-- from a quiet moment it believes that index to be almost empty, and a backlog made one batch take seconds.
select id, event_id, event_type, event_version, aggregate_type, topic, key, key_bytes, bytes, created_at, due_in,
  case when bytes <= $2 then aggregate_id end as aggregate_id,
  case when bytes <= $2 then payload end as payload,
  case when bytes <= $2 then payload_raw end as payload_raw,
  case when bytes <= $2 then headers end as headers,
  case when bytes <= $2 then correlation_id end as correlation_id,
  case when bytes <= $2 then causation_id end as causation_id,
  case when bytes <= $2 then source end as source,
  case when bytes <= $2 then traceparent end as traceparent,
  replay_of, dead_letter_of
from outbox_claimable
where id = any($1) and status || '' = 'PENDING'
order by id
for update skip locked

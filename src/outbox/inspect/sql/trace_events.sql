-- Everything that is known to have happened to some events, in order of time. $1 uuid[]: their event_ids. Returns:
-- when, which event, what, the row, where in Kafka, and more in words. Nothing of payloads or keys. Changes nothing.
with copies as (
  select * from outbox_current where event_id = any($1)
),
steps as (
  select created_at as at, event_id, 'inserted' as what, id as row, topic, null::int as partition, null::bigint as place,
    case
      when replay_of is not null then 'a replay of row ' || replay_of
      when dead_letter_of is not null then 'the dead letter of row ' || dead_letter_of
      else event_type
    end as details
  from copies
  union all
  select available_at, event_id, 'due', id, topic, null, null, 'not before this time' from copies where available_at is not null
  union all
  select published_at, event_id, 'published', id, topic, published_partition, published_offset,
    case when retry_count > 0 then 'after ' || retry_count || ' failed attempts' end
  from copies where published_at is not null
  union all
  select failed_at, event_id, lower(status), id, topic, null, null, last_error from copies
  where failed_at is not null and status in ('FAILED', 'DISCARDED')
  union all
  select h.held_at, c.event_id, 'held', c.id, coalesce(h.topic, c.topic), null, null,
    'its key waits (' || h.reason || coalesce(': ' || h.detail, '') || ') for row ' || h.first_id
      || coalesce(', until ' || to_char(h.release_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), '')
  from copies c
  join outbox_held_keys h on h.shard = c.shard
    and (h.first_id = c.id or md5(h.partition_key) = md5(outbox_key_of(c.partition_key, c.aggregate_id)))
  where c.status in ('HELD', 'FAILED')
  union all
  select a.at, c.event_id, a.action, c.id, null, null, null, 'by ' || a.actor || coalesce(': ' || a.reason, '')
  from copies c
  join outbox_audit a on a.details -> 'ids' @> to_jsonb(c.id)
  union all
  select handled_at, event_id, 'handled', null, topic, partition, "offset", 'by group ' || consumer_group
  from event_handled where event_id = any($1)
  union all
  select parked_at, event_id, 'parked', null, topic, partition, "offset", 'by group ' || consumer_group || ': ' || error
  from consumer_parked where event_id = any($1)
)
select at, event_id, what, row, outbox_shown(topic) as topic, partition, place, outbox_shown(details) as details from steps
order by at, row nulls last, what

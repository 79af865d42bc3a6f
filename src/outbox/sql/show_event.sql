-- One event with everything that is known of it: the row, its payload, and what holds its key. Changes nothing.
-- $1 bigint: id, or null. $2 uuid: event_id, or null. An event_id may have several rows, since a replay appends copies; the
-- first hundred are returned.
select e.id, e.event_id, e.status, e.topic, outbox_key_of(e.partition_key, e.aggregate_id) as key, e.event_type,
  e.event_version, e.aggregate_type, e.aggregate_id, e.correlation_id, e.retry_count, e.last_error, e.created_at,
  e.available_at, e.published_at, e.published_partition, e.published_offset,
  e.causation_id, e.source, e.traceparent, e.shard,
  e.payload::text as payload, jsonb_pretty(e.payload) as payload_pretty, e.payload_raw, e.headers::text as headers,
  translate(encode(e.payload_raw, 'base64'), E'\n', '') as payload_base64,
  h.first_id as held_by, h.reason as held_reason, h.detail as held_detail, h.held_at, h.release_at
from outbox_current e
left join outbox_held_keys h on e.status in ('FAILED', 'HELD') and h.shard = e.shard
  and (h.first_id = e.id or md5(h.partition_key) = md5(outbox_key_of(e.partition_key, e.aggregate_id)))
where ($1::bigint is null or e.id = $1) and ($2::uuid is null or e.event_id = $2)
order by e.id
limit 100

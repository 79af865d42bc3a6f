-- One event with everything that is known of it: the row, its payload, and what holds its key. Changes nothing. $1
-- bigint: id, or null. $2 uuid: event_id, or null. An event_id may have several rows, since a replay appends copies;
-- the first hundred are returned. $3 bigint: most bytes of a payload, or of headers. Larger ones are left out, and
-- `payload_omitted` and `headers_omitted` say so. Of other long texts the beginning is returned.
select e.id, e.event_id, e.status, outbox_shown(e.topic) as topic, outbox_shown(outbox_key_of(e.partition_key, e.aggregate_id)) as key,
  outbox_shown(e.event_type) as event_type, e.event_version, outbox_shown(e.aggregate_type) as aggregate_type,
  outbox_shown(e.aggregate_id) as aggregate_id, outbox_shown(e.correlation_id) as correlation_id, e.retry_count,
  outbox_shown(e.last_error) as last_error, e.created_at, e.available_at, e.published_at, e.published_partition, e.published_offset,
  outbox_shown(e.causation_id) as causation_id, outbox_shown(e.source) as source, outbox_shown(e.traceparent) as traceparent, e.shard,
  case when octet_length(printed.payload) <= $3 then printed.payload end as payload,
  case when octet_length(printed.headers) <= $3 then printed.headers end as headers,
  case when octet_length(e.payload_raw) <= $3 then e.payload_raw end as payload_raw,
  case when octet_length(e.payload_raw) <= $3 then translate(encode(e.payload_raw, 'base64'), E'\n', '') end as payload_base64,
  e.payload is not null and coalesce(octet_length(printed.payload) > $3, true)
    or coalesce(octet_length(e.payload_raw) > $3, false) as payload_omitted,
  e.headers is not null and coalesce(octet_length(printed.headers) > $3, true) as headers_omitted,
  h.first_id as held_by, h.reason as held_reason, h.detail as held_detail, h.held_at, h.release_at
from outbox_current e
-- Not more than the limit allows is printed at all, and only once.
cross join lateral (
  select outbox_text(outbox_json_text(e.payload, $3)) as payload, outbox_text(outbox_json_text(e.headers, $3)) as headers offset 0) printed
left join outbox_held_keys h on e.status in ('FAILED', 'HELD') and h.shard in (e.shard, outbox_shard_of(outbox_key_of(e.partition_key, e.aggregate_id), e.id))
  and (h.first_id = e.id or md5(h.partition_key) = md5(outbox_key_of(e.partition_key, e.aggregate_id)))
where ($1::bigint is null or e.id = $1) and ($2::uuid is null or e.event_id = $2)
order by e.id
limit 100

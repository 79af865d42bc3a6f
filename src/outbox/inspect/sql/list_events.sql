-- Events that match all filters, without their payload. A null filter matches everything. Changes nothing. $1 bigint:
-- id. $2 uuid: event_id. $3 text: key. $4 text[]: states. $5 text: topic. $6 text: event type. $7 text: aggregate type.
-- $8 text: aggregate id. $9 text: correlation id. $10 timestamptz, $11 float8: created since this time, and since so
-- many seconds ago. $12 timestamptz, $13 float8: created before, likewise. $14 bigint: go on after this id. $15
-- boolean: oldest first, else newest first. $16 bigint: most rows. $17 bigint[]: only these ids, which are found by
-- their state even if their rows have another one; null for all. It is run once per session, so it is planned for the
-- values given: filters that are null fall away, and the order becomes that of the primary key. Of long texts only the
-- beginning is returned, so that a list is small whatever the rows hold.
select id, event_id, status, outbox_shown(topic) as topic, outbox_shown(outbox_key_of(partition_key, aggregate_id)) as key,
  outbox_shown(event_type) as event_type, event_version, outbox_shown(aggregate_type) as aggregate_type,
  outbox_shown(aggregate_id) as aggregate_id, outbox_shown(correlation_id) as correlation_id, retry_count,
  outbox_shown(last_error) as last_error, created_at, available_at, published_at, published_partition, published_offset
from outbox_current
where {filter}
  and ($4::text[] is null or (
    status = any($4)
    -- So that the indexes of failed and held rows can serve it.
    and ($17::bigint[] is not null or row_status = any($4 || case when 'PUBLISHED' = any($4) then '{PENDING}'::text[] else '{}' end))))
  and ($17::bigint[] is null or id = any($17))
  and ($14::bigint is null or case when $15::boolean then id > $14 else id < $14 end)
order by case when $15 then id end, case when not $15 then id end desc
limit $16

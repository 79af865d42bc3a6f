-- Events that were given up although their rows refuse to be changed: they still say FAILED, and their outcome says DISCARDED.

-- As before, and such an outcome overrules FAILED, too.
create or replace view outbox_current with (security_invoker = true) as
select e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type, e.event_version, e.topic, e.partition_key, e.payload, e.payload_raw,
  e.headers, e.correlation_id, e.causation_id, e.source, e.traceparent,
  case when o.id is not null then o.status when passed.published then 'PUBLISHED' else e.status end as status,
  least(e.retry_count::bigint + coalesce(o.attempts, 0), 2147483647)::int as retry_count,
  e.available_at, coalesce(o.last_error, e.last_error) as last_error, e.created_at,
  case
    when o.id is not null then case when o.status = 'PUBLISHED' then o.at end
    when passed.published then (select p.at from outbox_progress p where p.shard = e.shard and p.done_id >= e.id order by p.done_id limit 1)
    else e.published_at
  end as published_at,
  -- As it stands in the row: what indexes know.
  e.status as row_status,
  coalesce(o.published_partition, e.published_partition) as published_partition,
  coalesce(o.published_offset, e.published_offset) as published_offset,
  e.shard, case when o.status = 'FAILED' then o.at else e.failed_at end as failed_at,
  e.replay_of, e.dead_letter_of, e.dead_letter_to, e.dead_letter_from
from outbox_events e
left join outbox_shards s on s.shard = e.shard
left join outbox_outcomes o on o.id = e.id and o.event_id = e.event_id
  and (e.status in ('PENDING', 'HELD') or (e.status = 'FAILED' and o.status = 'DISCARDED'))
cross join lateral (
  -- A shard that was taken away has left nothing behind that waits.
  select e.status = 'PENDING' and (s.shard is null or e.id <= s.done_id or e.id = any(s.ahead_ids))
    and not exists (select 1 from outbox_again a where a.id = e.id)
    and not (s.batch_ids is not null and e.id >= s.batch_ids[1] and e.id = any(s.batch_ids)) as published
) passed;

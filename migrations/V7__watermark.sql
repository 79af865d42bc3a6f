-- Progress without an update for each published row: `relay.tracking = "watermark"`.

alter table outbox_shards
  -- PENDING rows of the shard up to this id are published, except those in flight and those that outbox_again lists. It never falls. 0 where
  -- rows have always been marked one by one.
  add column done_id bigint not null default 0,
  -- Published rows above it that are still PENDING, in order: they were claimed while lower ids could still appear.
  add column ahead_ids bigint[] not null default '{}',
  add constraint outbox_shards_done check (done_id = 0 or done_id < low_id);
alter table outbox_shards alter column ahead_ids set storage external;
alter table outbox_retired_shards add column done_id bigint not null default 0;

-- Rows up to the done_id of their shard that wait again, for example after a retry. A row leaves this list when it is published, fails or
-- is held.
create table outbox_again (
  id bigint primary key,
  shard smallint not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000);
create index outbox_again_shard on outbox_again (shard, id);

-- When done_id was where, noted about once a minute: rows that nobody marks do not say themselves when they were published.
create table outbox_progress (
  shard smallint not null,
  done_id bigint not null,
  at timestamptz not null default now(),
  primary key (shard, done_id)
);
create index outbox_progress_at on outbox_progress (shard, at);

-- What the watermark of each shard had passed that many seconds ago. Shards that were taken away have left their last note.
create function outbox_passed(seconds float8) returns table (shard smallint, done_id bigint)
  language sql stable
begin atomic
  select s.shard, p.done_id
  from (select o.shard from outbox_shards o union all select r.shard from outbox_retired_shards r) s
  cross join lateral (
    select n.done_id from outbox_progress n
    where n.shard = s.shard and n.at <= now() - make_interval(secs => seconds)
    order by n.at desc limit 1
  ) p;
end;

-- The events with their state as it is, whichever way the relay keeps it. published_at of an event that was not marked is the first moment
-- at which it is known to have been published.
create view outbox_current with (security_invoker = true) as
select e.id, e.event_id, e.aggregate_type, e.aggregate_id, e.event_type, e.event_version, e.topic, e.partition_key, e.payload, e.payload_raw,
  e.headers, e.correlation_id, e.causation_id, e.source, e.traceparent,
  case when passed.published then 'PUBLISHED' else e.status end as status,
  e.retry_count, e.available_at, e.last_error, e.created_at,
  case
    when passed.published then (select p.at from outbox_progress p where p.shard = e.shard and p.done_id >= e.id order by p.done_id limit 1)
    else e.published_at
  end as published_at,
  -- As it stands in the row: what indexes know.
  e.status as row_status,
  e.published_partition, e.published_offset, e.shard, e.failed_at, e.replay_of, e.dead_letter_of, e.dead_letter_to, e.dead_letter_from
from outbox_events e
left join outbox_shards s on s.shard = e.shard
cross join lateral (
  -- A shard that was taken away has left nothing behind that waits.
  select e.status = 'PENDING' and (s.shard is null or e.id <= s.done_id or e.id = any(s.ahead_ids))
    and not exists (select 1 from outbox_again a where a.id = e.id)
    and not (s.batch_ids is not null and e.id >= s.batch_ids[1] and e.id = any(s.batch_ids)) as published
) passed;

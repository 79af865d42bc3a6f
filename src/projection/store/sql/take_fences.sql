-- Takes partitions for this instance: whoever held one before is fenced, because the epoch has moved on. A partition
-- that is stopped stays so, unless somebody has set next_offset by hand since: that is a decision, and what the
-- position rested on is forgotten with it. $1 text: group. $2 text[]: topics. $3 int[]: partitions. $4 bigint[]: first
-- offset of each log, where a group that has never read the partition begins. $5 boolean: a group without a position on
-- a topic that other groups have positions on is stopped until somebody decides. $6 text: the projection whose
-- positions they are; null: of all. Returns where each stands, and former_offset, from which next_offset was changed by
-- hand (null: it was not). Running it again takes the fence again and moves no offset. Flushed to the disk, unlike
-- folds: an epoch must not be given out twice.
with durable as materialized (
  select set_config('synchronous_commit', 'local', true) as setting
),
taken as (
  select t.topic, t.partition, t.log_start, case when $5 then (
      select string_agg(distinct o.consumer_group, ', ') from consumer_partitions o where o.topic = t.topic and o.consumer_group <> $1
        and not exists (
          select 1 from consumer_partitions own
          where own.consumer_group = $1 and own.topic = t.topic and own.stopped_reason is distinct from 'other-group')
    ) end as others
  from unnest($2::text[], $3::int[], $4::bigint[]) as t (topic, partition, log_start)
  cross join durable
),
before as materialized (
  select c.topic, c.partition, c.written_offset from consumer_partitions c
  join taken t on t.topic = c.topic and t.partition = c.partition
  where c.consumer_group = $1 and c.projection is not distinct from $6 and c.written_offset <> c.next_offset
)
insert into consumer_partitions as known (
  consumer_group, topic, partition, projection, epoch, next_offset, written_offset, stopped_reason, stopped_detail, stopped_at
)
select $1, t.topic, t.partition, $6::text, 1, t.log_start, t.log_start, case when t.others is not null then 'other-group' end,
  'the group has no position here, and others have: ' || t.others, case when t.others is not null then now() end
from taken t
order by t.topic, t.partition
on conflict (consumer_group, topic, partition, projection) do update set
  epoch = known.epoch + 1,
  -- When the position moved last: taking the partition again and again moves nothing.
  updated_at = case when known.written_offset = known.next_offset then known.updated_at else now() end,
  written_offset = known.next_offset,
  stopped_reason = case when known.written_offset = known.next_offset then known.stopped_reason end,
  stopped_detail = case when known.written_offset = known.next_offset then known.stopped_detail end,
  stopped_at = case when known.written_offset = known.next_offset then known.stopped_at end,
  cluster_id = case when known.written_offset = known.next_offset then known.cluster_id end,
  topic_id = case when known.written_offset = known.next_offset then known.topic_id end,
  last_offset = case when known.written_offset = known.next_offset then known.last_offset end,
  last_recorded_at = case when known.written_offset = known.next_offset then known.last_recorded_at end,
  last_digest = case when known.written_offset = known.next_offset then known.last_digest end
returning topic, partition, epoch, next_offset, cluster_id, topic_id, last_offset, last_digest, stopped_reason, stopped_detail, stopped_at,
  (select b.written_offset from before b where b.topic = known.topic and b.partition = known.partition) as former_offset

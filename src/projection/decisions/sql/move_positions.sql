-- Gives the positions of one group to another, with all that they rest on. $1 text: from. $2 text: to. The rows of the
-- old group are locked, so that it folds nothing until this transaction ends.
with old as (
  select * from consumer_partitions where consumer_group = $1 order by topic, partition for update
)
insert into consumer_partitions as known (
  consumer_group, topic, partition, epoch, next_offset, projection, written_offset, cluster_id, topic_id, last_offset, last_recorded_at,
  last_digest, stopped_reason, stopped_detail, stopped_at
)
select $2, topic, partition, epoch, next_offset, projection, written_offset, cluster_id, topic_id, last_offset, last_recorded_at, last_digest,
  stopped_reason, stopped_detail, stopped_at
from old
on conflict (consumer_group, topic, partition, projection) do update set
  next_offset = excluded.next_offset,
  updated_at = now(),
  written_offset = excluded.written_offset,
  cluster_id = excluded.cluster_id,
  topic_id = excluded.topic_id,
  last_offset = excluded.last_offset,
  last_recorded_at = excluded.last_recorded_at,
  last_digest = excluded.last_digest,
  stopped_reason = excluded.stopped_reason,
  stopped_detail = excluded.stopped_detail,
  stopped_at = excluded.stopped_at

-- Stops a partition until somebody decides. $1 text: group. $2 text: topic. $3 int: partition. $4 bigint: our epoch. $5
-- text: the reason. $6 text: the reason in words. $7 text: projection; null: all. Returns since when it is stopped, or
-- no row when the partition is not ours or is stopped already. Flushed to the disk, so that a crash does not start it
-- again.
with durable as materialized (
  select set_config('synchronous_commit', 'local', true) as setting
)
update consumer_partitions
set stopped_reason = $5, stopped_detail = $6, stopped_at = now(), written_offset = next_offset
from durable
where consumer_group = $1 and topic = $2 and partition = $3 and projection is not distinct from $7 and epoch = $4 and stopped_reason is null
returning stopped_at

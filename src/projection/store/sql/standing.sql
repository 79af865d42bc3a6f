-- Where a partition stands. $1 text: group. $2 text: topic. $3 int: partition. $4 text: projection; null: all. Returns
-- epoch, next_offset, the offset as the consumer wrote it last (null: a command has set it since), and why it is
-- stopped; or no row. Reads only.
select epoch, next_offset, written_offset, stopped_reason
from consumer_partitions
where consumer_group = $1 and topic = $2 and partition = $3 and projection is not distinct from $4

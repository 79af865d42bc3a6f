-- Where a partition stands. $1 text: group. $2 text: topic. $3 int: partition.
-- Returns epoch and next_offset, or no row. Reads only.
select epoch, next_offset
from consumer_partitions
where consumer_group = $1 and topic = $2 and partition = $3

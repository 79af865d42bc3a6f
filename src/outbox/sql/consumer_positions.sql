-- How far a consumer group has folded each partition. $1 text: the group. Changes nothing.
select topic, partition, next_offset from consumer_partitions where consumer_group = $1 order by topic, partition

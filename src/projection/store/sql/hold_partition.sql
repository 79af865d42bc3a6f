-- Holds off a new owner until this transaction ends. $1 text: group. $2 text: topic. $3 int: partition. $4 bigint: our
-- epoch. $5 text: projection; null: all. Returns one row, or none when the partition is not ours or is stopped.
select true from consumer_partitions
where consumer_group = $1 and topic = $2 and partition = $3 and projection is not distinct from $5 and epoch = $4 and stopped_reason is null
for update

-- Moves the offset of a partition, which also proves that it is still ours. First statement of every fold: its row lock
-- holds off a new owner until this transaction ends.
-- $1 text: group. $2 text: topic. $3 int: partition. $4 bigint: our epoch. $5 bigint: first offset of the slice.
-- $6 bigint: offset after its last one.
-- Changes one row, or none when we are fenced or the slice is already folded; so running it again changes nothing.
-- Offsets have holes (transaction markers, compaction), hence <=.
update consumer_partitions
set next_offset = $6, updated_at = now()
where consumer_group = $1 and topic = $2 and partition = $3 and epoch = $4 and next_offset <= $5

-- Moves the offset of a partition from exactly where the consumer believes it to be, which also proves that the
-- partition is still ours. First statement of every fold: its row lock holds off a new owner until this transaction
-- ends. $1 text: group. $2 text: topic. $3 int: partition. $4 bigint: our epoch. $5 bigint: where the consumer believes
-- it to be. $6 bigint: where it is now. $7 bigint: offset of the last record before that; null when there was none. $8
-- uuid: its digest. $9 timestamptz: its time. $10 text: the projection whose position it is; null: of all. Changes one
-- row, or none when the partition is not ours, is stopped, or stands elsewhere; so running it again changes nothing.
update consumer_partitions
set next_offset = $6, written_offset = $6, updated_at = now(),
  last_offset = coalesce($7, last_offset),
  last_digest = case when $7 is null then last_digest else $8 end,
  last_recorded_at = case when $7 is null then last_recorded_at else $9 end
where consumer_group = $1 and topic = $2 and partition = $3 and projection is not distinct from $10 and epoch = $4 and next_offset = $5
  and stopped_reason is null

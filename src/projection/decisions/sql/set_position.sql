-- Sets the position of a partition and forgets what the old one rested on. $1 text: group. $2 text: topic. $3 int:
-- partition. $4 bigint: the offset to read next. $5 text: only while it is stopped for this reason; null: always. $6
-- text: projection; null: all. The epoch stays, and whoever reads the partition notices that it stands elsewhere, and
-- by the written_offset that a command has set it. Running it again changes nothing.
insert into consumer_partitions as known (consumer_group, topic, partition, projection, epoch, next_offset, written_offset)
values ($1, $2, $3, $6, 1, $4, null)
on conflict (consumer_group, topic, partition, projection) do update set
  next_offset = excluded.next_offset,
  written_offset = null,
  updated_at = now(),
  cluster_id = null,
  topic_id = null,
  last_offset = null,
  last_recorded_at = null,
  last_digest = null,
  stopped_reason = null,
  stopped_detail = null,
  stopped_at = null
where $5::text is null or known.stopped_reason = $5

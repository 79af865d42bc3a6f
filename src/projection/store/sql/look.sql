-- Where partitions stand, and whether parked events of theirs are to be folded again. $1 text: group. $2 text[]:
-- topics. $3 int[]: partitions. $4 text: projection; null: all. Returns topic, partition, epoch, next_offset, the
-- offset as the consumer wrote it last (null: a command has set it since), why it is stopped, and released. A partition
-- without a row is not returned. Reads only.
select c.topic, c.partition, c.epoch, c.next_offset, c.written_offset, c.stopped_reason,
  exists (
    select 1 from consumer_parked k
    where k.consumer_group = $1 and k.topic = c.topic and k.partition = c.partition and k.projection is not distinct from $4
      and k.release_asked_at is not null
  ) as released
from unnest($2::text[], $3::int[]) as own (topic, partition)
join consumer_partitions c on c.consumer_group = $1 and c.topic = own.topic and c.partition = own.partition
  and c.projection is not distinct from $4

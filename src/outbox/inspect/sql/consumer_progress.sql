-- How far each consumer group has folded each partition, and how long ago it moved. next_known is behind the last
-- offset that the newest $1 bigint rows of the outbox were published at; null where they tell nothing of the partition.
-- Changes nothing. Values are clamped first: a row may hold any time and the largest offset.
select c.consumer_group, c.topic, c.partition, c.next_offset,
  extract(epoch from clock_timestamp() - least(greatest(c.updated_at, 'epoch'), clock_timestamp()))::float8 as idle, known.next_known
from consumer_partitions c
left join (
  select topic, published_partition, least(max(published_offset), 9223372036854775806) + 1 as next_known
  from (select topic, published_partition, published_offset from outbox_events order by id desc limit $1) newest
  where published_offset is not null
  group by topic, published_partition
) known on known.topic = c.topic and known.published_partition = c.partition
order by c.consumer_group, c.topic, c.partition

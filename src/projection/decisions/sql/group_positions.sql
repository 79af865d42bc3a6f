-- Partitions that one group has read, and whether another has read the same. $1 text: the group. $2 text: the other.
-- Returns topic, and the topic again where the other group has a position of its own that is no question. Reads only.
select c.topic, own.topic as own
from consumer_partitions c
left join consumer_partitions own on own.consumer_group = $2 and own.topic = c.topic and own.partition = c.partition
  and own.projection is not distinct from c.projection
  and own.stopped_reason is distinct from 'other-group'
where c.consumer_group = $1

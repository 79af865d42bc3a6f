-- Where groups read. $1 text: the group; null: all. $2 text: the topic; null: all. Reads only.
select consumer_group, topic, partition, projection, next_offset, stopped_reason, stopped_detail, stopped_at, updated_at, last_offset,
  cluster_id, topic_id
from consumer_partitions
where ($1::text is null or consumer_group = $1) and ($2::text is null or topic = $2)
order by consumer_group, topic, partition, projection

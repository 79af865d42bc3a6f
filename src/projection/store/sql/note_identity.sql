-- Notes which log the positions of partitions are places in. $1 text: group. $2 text[]: topics. $3 int[]: partitions.
-- $4 bigint[]: our epochs. $5 text: the cluster; null when it does not tell. $6 uuid[]: ids of the topics; null where
-- unknown. $7 text: projection; null: all. What is unknown now stays as it was.
update consumer_partitions as known
set cluster_id = coalesce($5, known.cluster_id), topic_id = coalesce(own.topic_id, known.topic_id)
from unnest($2::text[], $3::int[], $4::bigint[], $6::uuid[]) as own (topic, partition, epoch, topic_id)
where known.consumer_group = $1 and known.topic = own.topic and known.partition = own.partition and known.epoch = own.epoch
  and known.projection is not distinct from $7

-- Takes partitions for this instance: whoever held one before is fenced, because the epoch has moved on.
-- $1 text: group. $2 text[]: topics. $3 int[]: partitions. $4 bigint[]: first offset of each log, where a group that has
-- never read the partition begins.
-- Returns topic, partition, epoch, next_offset. Running it again takes the fence again and moves no offset.
insert into consumer_partitions as known (consumer_group, topic, partition, epoch, next_offset)
select $1, taken.topic, taken.partition, 1, taken.log_start
from unnest($2::text[], $3::int[], $4::bigint[]) as taken (topic, partition, log_start)
order by taken.topic, taken.partition
on conflict (consumer_group, topic, partition) do update set epoch = known.epoch + 1, updated_at = now()
returning topic, partition, epoch, next_offset

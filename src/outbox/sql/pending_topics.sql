-- Topics that waiting rows name, among the first $1 bigint of them; null where the topic comes from routing. With the number
-- of rows seen. Changes nothing.
select topic, count(*) as events
from (
  select e.topic
  from outbox_shards s
  join outbox_events e on e.shard = s.shard and e.status = 'PENDING' and e.id >= s.low_id
  where e.id not in (select unnest(ahead_ids) from outbox_shards)
  limit $1
) waiting
group by topic
order by topic nulls first

-- Topics that waiting rows name, among the first $1 bigint of them; null where the topic comes from routing. With the
-- number of rows seen. Changes nothing.
select outbox_text(topic) as topic, count(*) as events
from (
  -- No longer text is a topic of Kafka, and some texts are very long.
  select left(e.topic, 250) as topic
  from outbox_shards s
  -- `offset 0` for the reason given in backlog_by_topic.sql.
  cross join lateral (
    select id, topic from outbox_events
    where (shard, id) >= (s.shard, s.low_id) and shard <= s.shard and status = 'PENDING' offset 0
  ) e
  where e.id not in (select unnest(ahead_ids) from outbox_shards) and e.id not in (select id from outbox_outcomes)
  limit $1
) waiting
group by topic
order by 1 nulls first

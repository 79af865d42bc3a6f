-- Topics that waiting rows name, among the first $1 bigint of them; null where the topic comes from routing. With the number
-- of rows seen. Changes nothing.
select topic, count(*) as events
from (select topic from outbox_events where status = 'PENDING' limit $1) waiting
group by topic
order by topic nulls first

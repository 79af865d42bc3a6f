-- Topics that the newest $1 bigint rows name, dead letters left out. Changes nothing.
select distinct outbox_text(topic) as topic
from (select left(topic, 250) as topic, dead_letter_of from outbox_events order by id desc limit $1) recent
where topic is not null and dead_letter_of is null
order by 1

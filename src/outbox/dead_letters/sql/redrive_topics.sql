-- Topics that the outbox knows, to find their dead letters: of the newest $1 bigint rows, of every FAILED row, and,
-- already dead-letter topics themselves, of every dead letter that the outbox holds. Reads by index. Changes nothing.
select outbox_text(left(topic, 250)) as topic, false as is_dead_letter_topic
from (select topic, dead_letter_of from outbox_events order by id desc limit $1) newest
where topic is not null and dead_letter_of is null
union
select outbox_text(left(topic, 250)), false from outbox_events where status = 'FAILED' and topic is not null and dead_letter_of is null
union
select outbox_text(left(topic, 250)), true from outbox_events where dead_letter_of is not null and topic is not null

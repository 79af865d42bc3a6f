-- The next rows of a shard, with what a record is made of. $1 smallint: shard. $2 bigint: ids above this. $3 bigint:
-- most rows.
select id, event_id, event_type, aggregate_type, aggregate_id, topic, payload::text, headers, created_at
from outbox_events
where shard = $1 and status = 'PENDING' and id > $2
order by id
limit $3
for update skip locked

-- What people write: the next rows, oldest first, locked for this transaction. $1 bigint: most rows.
select id, event_id::text, event_type, coalesce(partition_key, aggregate_id) as key, payload::text as payload
from outbox_events
where status = 'PENDING'
order by id
limit $1
for update skip locked

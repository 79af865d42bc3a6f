-- Moves acknowledged events to PUBLISHED. $1 bigint[]: ids. $2 int[]: partitions. $3 bigint[]: offsets, in the same
-- order. By id list, never by a range: a lower id may be committed later. Running it twice changes nothing. The number
-- of rows that moved is compared with the number of ids. The status is compared as an expression, so that the planner
-- cannot choose the index of the PENDING rows: with statistics from a quiet moment it believes that index to be almost
-- empty, and a backlog made one batch take seconds.
update outbox_events e
set status = 'PUBLISHED', published_at = now(), published_partition = u.partition, published_offset = u.published_offset
from unnest($1::bigint[], $2::int[], $3::bigint[]) as u(id, partition, published_offset)
where e.id = u.id and e.status || '' = 'PENDING'

-- Writes to rows what stands of them in outbox_outcomes, now that they can perhaps be changed. $1 bigint[]: ids. Claims
-- leave these events out whether their row says it or their outcome does, so it runs under no fence. Running it twice
-- changes nothing.
update outbox_events e
set status = 'PUBLISHED', published_at = o.at, published_partition = o.published_partition, published_offset = o.published_offset
from outbox_outcomes o
where o.id = any($1) and o.status = 'PUBLISHED' and e.id = o.id and e.event_id = o.event_id and e.status || '' = 'PENDING'

-- Marks events that the watermark has passed and that have ids above the last one drawn: they were published before ids began again, and would
-- be sent once more when their shard has no watermark. $1 smallint[]: shards, whose rows this transaction has locked.
-- Materialized, because a sequence must not take part in a statement that locks rows.
with last as materialized (select case when is_called then last_value else last_value - 1 end as id from outbox_events_id_seq)
update outbox_events e set status = 'PUBLISHED', published_at = now()
from outbox_shards s
where s.shard = any($1) and e.shard = s.shard and e.status = 'PENDING' and e.id > (select id from last)
  and (e.id <= s.done_id or e.id = any(s.ahead_ids)) and s.done_id > 0
  and not e.id = any(coalesce(s.batch_ids, '{}')) and not exists (select 1 from outbox_again a where a.id = e.id)

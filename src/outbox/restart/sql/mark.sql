-- Events that the watermark has passed and that have ids above the last one drawn: they were published before ids began
-- again, and would be sent once more when their shard has no watermark. They are to be marked. $1 smallint[]: shards,
-- whose rows this transaction has locked. Changes nothing. What has an outcome in outbox_outcomes is left out: it is
-- known not to wait.
select e.id
from outbox_events e
join outbox_shards s on s.shard = e.shard
where s.shard = any($1) and e.status = 'PENDING'
  and e.id > (select case when is_called then last_value else last_value - 1 end from outbox_events_id_seq)
  and (e.id <= s.done_id or e.id = any(s.ahead_ids)) and s.done_id > 0
  and not e.id = any(coalesce(s.batch_ids, '{}')) and not exists (select 1 from outbox_again a where a.id = e.id)
  and not exists (select 1 from outbox_outcomes o where o.id = e.id and o.event_id = e.event_id)

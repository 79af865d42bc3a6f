-- The bounds of a replay that begins now: the highest id, and the clock that `created_at` was set by. Changes nothing.
select coalesce((select max(id) from outbox_events), 0) as upto_id, now() as now

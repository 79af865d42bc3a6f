-- Shards that have passed ids which were never drawn, because the sequence was set back: what waits there is below the
-- bound of the claim, and is not counted. A relay that runs notices it and begins again (restart_lock.sql).
select s.shard from outbox_shards s
where greatest(s.done_id, s.low_id - 1) > (select case when is_called then last_value else last_value - 1 end from outbox_events_id_seq)
order by s.shard

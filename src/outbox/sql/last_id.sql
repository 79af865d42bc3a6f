-- The highest id that was ever drawn, 0 when none was. First step of the lock barrier.
select case when is_called then last_value else 0 end as last_id from outbox_events_id_seq

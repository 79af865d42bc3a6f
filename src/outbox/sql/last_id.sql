-- The highest id that was ever drawn, 0 when none was, and since when this server runs, in microseconds. First step of the lock barrier.
select case when is_called then last_value else 0 end as last_id,
  (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint as server
from outbox_events_id_seq

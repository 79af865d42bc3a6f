-- The highest id that was ever drawn, 0 when none was; which run of the server this is; and how the sequence gives out ids. First step of the
-- lock barrier. Changes nothing.
-- A run ends with the server, or when PostgreSQL restarts all sessions in place because one of them crashed. The start of the postmaster stays
-- the same then, but crash recovery resets the statistics, so the moment of that reset tells the two runs apart. In microseconds, added up.
select case when s.is_called then s.last_value else 0 end as last_id,
  (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint
    + coalesce((extract(epoch from pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint, 0) as server,
  p.seqcache as cache, p.seqincrement as increment, p.seqcycle as cycles
from outbox_events_id_seq s
join pg_sequence p on p.seqrelid = 'outbox_events_id_seq'::regclass

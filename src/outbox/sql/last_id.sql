-- The highest id that was ever drawn, 0 when none was; which run of the server this is; how the sequence gives out ids;
-- its file and the table's, 0 for none; and whether a shard has passed ids that were never drawn. First step of the
-- lock barrier. Changes nothing. A run ends with the server, or when PostgreSQL restarts all sessions in place because
-- one of them crashed. The start of the postmaster stays the same then, but crash recovery resets the statistics, so
-- the moment of that reset tells the two runs apart. In microseconds, added up. The file of the sequence is mixed in,
-- because it changes when ids begin again. After `restart with n` the next id is n itself.
select case when s.is_called then s.last_value else s.last_value - 1 end as last_id,
  (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint
    + coalesce((extract(epoch from pg_stat_get_bgwriter_stat_reset_time()) * 1000000)::bigint, 0)
    # (coalesce(pg_relation_filenode('outbox_events_id_seq'), 0)::bigint << 20) as server,
  p.seqcache as cache, p.seqincrement as increment, p.seqcycle as cycles,
  coalesce(pg_relation_filenode('outbox_events_id_seq'), 0)::bigint as sequence_file,
  coalesce(pg_relation_filenode('outbox_events'), 0)::bigint as table_file,
  exists (
    select 1 from outbox_shards b, lateral (select case when s.is_called then s.last_value else s.last_value - 1 end as id) l
    where greatest(b.done_id, b.low_id - 1, b.ahead_ids[cardinality(b.ahead_ids)]) > l.id) as beyond
from outbox_events_id_seq s
join pg_sequence p on p.seqrelid = 'outbox_events_id_seq'::regclass

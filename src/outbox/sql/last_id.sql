-- The highest id that was ever drawn, 0 when none was; since when this server runs, in microseconds, with the file of the sequence mixed in, which
-- changes when ids begin again; that file and the table's, 0 for none; and whether a shard has passed ids that were never drawn. First step of
-- the lock barrier.
-- After `restart with n` the next id is n itself.
select case when s.is_called then s.last_value else s.last_value - 1 end as last_id,
  (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint
    # (coalesce(pg_relation_filenode('outbox_events_id_seq'), 0)::bigint << 20) as server,
  coalesce(pg_relation_filenode('outbox_events_id_seq'), 0)::bigint as sequence_file,
  coalesce(pg_relation_filenode('outbox_events'), 0)::bigint as table_file,
  exists (
    select 1 from outbox_shards b, lateral (select case when s.is_called then s.last_value else s.last_value - 1 end as id) l
    where b.done_id > l.id or b.low_id - 1 > l.id) as beyond
from outbox_events_id_seq s

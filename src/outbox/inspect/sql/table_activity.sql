-- What PostgreSQL's statistics say of the outbox, its partitions included: rows, and how many were inserted, updated
-- and deleted since the statistics were reset. Estimates: sessions report about once a second, and what was rolled back
-- is counted too. Reads no row of the outbox. Changes nothing. The moment is the database's, in seconds.
select extract(epoch from clock_timestamp())::float8 as at,
  coalesce(sum(n_live_tup), 0)::bigint as rows, coalesce(sum(n_tup_ins), 0)::bigint as inserted,
  coalesce(sum(n_tup_upd), 0)::bigint as updated, coalesce(sum(n_tup_del), 0)::bigint as deleted
from pg_stat_user_tables
where relid = 'outbox_events'::regclass
  or relid in (select inhrelid from pg_inherits where inhparent = 'outbox_events'::regclass)

-- Who has the outbox open now, for the operator who waits: how many transactions, and the process and age in seconds of
-- the oldest that this role may see. Changes nothing.
select count(distinct l.virtualtransaction) as transactions,
  (array_agg(a.pid order by a.xact_start) filter (where a.xact_start is not null))[1] as pid,
  extract(epoch from clock_timestamp() - min(a.xact_start))::float8 as age
from pg_locks l left join pg_stat_activity a on a.pid = l.pid
where l.locktype = 'relation' and l.relation = to_regclass('outbox_events') and l.granted and l.pid is distinct from pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database())

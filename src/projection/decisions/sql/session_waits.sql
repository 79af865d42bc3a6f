-- Folds that do not end: sessions of the consumer that wait for a lock, and those whose statement runs for half a
-- minute. $1 text: the application_name of those sessions. Returns the relation (`a row` for a lock on none, null for a
-- statement that runs), the process that has the lock or runs the statement, and since when, as far as this role may
-- see it. Reads views of the server alone.
select distinct on (holder.pid) coalesce(l.relation::regclass::text, 'a row') as relation, holder.pid, date_trunc('second', l.waitstart) as since
from pg_stat_activity waiting
join pg_locks l on l.pid = waiting.pid and not l.granted
cross join lateral unnest(pg_blocking_pids(waiting.pid)) as holder (pid)
where waiting.datname = current_database() and waiting.application_name = $1
union all
select null, a.pid, date_trunc('second', a.query_start)
from pg_stat_activity a
where a.datname = current_database() and a.application_name = $1 and a.state = 'active'
  and a.query_start < clock_timestamp() - interval '30 seconds'
  and not exists (select 1 from pg_locks l where l.pid = a.pid and not l.granted)
